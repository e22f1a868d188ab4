"""System calls for asyncio: one connection for each event loop, many calls at once on it.

A reader task, which lives as long as the connection, passes replies to their calls. Cancelling a
task cancels its call. When the kernel dies, every pending call raises KernelUnavailable at once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
import zmq.asyncio

from aios.syscalls import codec, paths
from aios.syscalls.client import GRACE_S, open_socket, result, served
from aios.syscalls.errors import AiosError, DeadlineExceeded, KernelUnavailable
from aios.syscalls.table import BY_NAME
from aios.syscalls.types.chat import Chunk
from aios.syscalls.types.kernel import CancelRequest

from .session import Session


class AsyncConnection:
    """One DEALER and the task that reads it. Belongs to one event loop."""

    def __init__(self, session: Session) -> None:
        credentials = session.credentials
        self._kernel_os_pid = paths.require_kernel(credentials.runtime)
        plain = open_socket(session.context(), credentials, self._kernel_os_pid)
        self._socket = zmq.asyncio.Socket.from_socket(plain)
        self._kernel_fd = os.pidfd_open(self._kernel_os_pid)
        self._calls: dict[int, asyncio.Queue[codec.ReplyFrame | AiosError]] = {}
        self._call_ids = itertools.count(1)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._kernel_fd, self._kernel_ended)
        self._reader = loop.create_task(self._read())
        self.closed = False

    async def call(self, name: str, body: msgspec.Struct, timeout_s: float | None = None) -> Any:
        """Make a call and return its reply, of the type in the table. Raises AiosError."""
        async with aclosing(self.stream(name, body, timeout_s)) as events:
            async for event in events:
                if not isinstance(event, Chunk):
                    return event
        raise AssertionError("a call without a reply")

    async def stream(
        self, name: str, body: msgspec.Struct, timeout_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Make a call; yield Chunks, then the reply. Closing the iterator early cancels the
        call."""
        row = BY_NAME[name]
        call_id = next(self._call_ids)
        frame = codec.encode_call(row.number, call_id, timeout_s, body, served())
        queue: asyncio.Queue[codec.ReplyFrame | AiosError] = asyncio.Queue()
        self._calls[call_id] = queue
        ended = False
        try:
            await self._socket.send(frame)
            patience_s = (row.timeout_s if timeout_s is None else timeout_s) + GRACE_S
            until_s = asyncio.get_running_loop().time() + patience_s
            while not ended:
                reply = await self._next(queue, until_s)
                ended = reply.kind != codec.CHUNK
                yield result(row, reply) if ended else codec.convert(reply.body, Chunk)
        finally:
            del self._calls[call_id]
            if not ended and not self.closed:
                self._cancel(call_id)

    async def _next(
        self, queue: asyncio.Queue[codec.ReplyFrame | AiosError], until_s: float
    ) -> codec.ReplyFrame:
        try:
            async with asyncio.timeout_at(until_s):
                reply = await queue.get()
        except TimeoutError:
            raise DeadlineExceeded("the kernel did not answer by the call's deadline") from None
        if isinstance(reply, AiosError):
            raise reply
        return reply

    def _cancel(self, call_id: int) -> None:
        row = BY_NAME["cancel"]
        frame = codec.encode_call(row.number, next(self._call_ids), None, CancelRequest(call_id))
        self._socket.send(frame, zmq.DONTWAIT)

    async def _read(self) -> None:
        try:
            while True:
                reply = codec.decode_reply(await self._socket.recv())
                queue = self._calls.get(reply.call_id)
                if queue:
                    queue.put_nowait(reply)
        finally:
            self.close()  # also when asyncio.run ends and cancels every task

    def _kernel_ended(self) -> None:
        error = KernelUnavailable(
            f"the kernel (pid {self._kernel_os_pid}) has ended", paths.START_HINT
        )
        for queue in self._calls.values():
            queue.put_nowait(error)
        self.close(0)  # what was not received must not reach the next kernel

    def close(self, linger_ms: int = 200) -> None:
        """Close the socket. Idempotent."""
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().remove_reader(self._kernel_fd)
            os.close(self._kernel_fd)
            self._reader.cancel()
            self._socket.close(linger_ms)


_connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncConnection] = (
    weakref.WeakKeyDictionary()
)


async def connection(session: Session) -> AsyncConnection:
    """Return the running loop's connection, opened at first use. Raises KernelUnavailable."""
    loop = asyncio.get_running_loop()
    known = _connections.get(loop)
    if known is None or known.closed:
        known = _connections[loop] = AsyncConnection(session)
    return known
