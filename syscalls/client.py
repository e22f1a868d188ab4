"""The client's side of the system-call socket: one DEALER.

Owns its socket. Every call returns a reply or raises a typed error by its deadline, even if the
kernel dies meanwhile. Not thread-safe: each thread has its own connection
(``agentproc/session.py``).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import struct
import time
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import zmq

from . import codec, paths
from .errors import DeadlineExceeded, KernelUnavailable, from_body
from .table import BY_NAME, Call
from .types.chat import Chunk
from .types.kernel import CancelRequest

CONNECT_TIMEOUT_S = 10.0
GRACE_S = 5.0
"""Extra time after a deadline in which a living kernel can report it."""
GUEST = "guest"

_serving: ContextVar[tuple[int, int]] = ContextVar("_serving", default=(0, 0))
"""Host pid that serves a call of an offered tool in this context, and the number of that work."""


@contextlib.contextmanager
def on_behalf(work: int) -> Iterator[None]:
    """Make the calls inside on behalf of the caller of a tool. Threads and processes started inside
    act for the agent itself."""
    token = _serving.set((os.getpid(), work))
    try:
        yield
    finally:
        _serving.reset(token)


def served() -> int:
    """Return the number of the work that calls are made for here; 0 for none."""
    os_pid, work = _serving.get()
    return work if work and os_pid == os.getpid() else 0


class Credentials(NamedTuple):
    """How a connection authenticates.

    The kernel gives ``user`` and ``secret`` to each agent that it starts. A guest (a Python program
    started by hand) has none; the kernel knows it by its host pid. The operator uses the other
    socket, where the kernel checks the peer's user and pid.
    """

    runtime: Path
    user: str = GUEST
    secret: str = "-"
    operator: bool = False


def open_socket(
    context: zmq.Context[Any], credentials: Credentials, kernel_os_pid: int
) -> zmq.Socket[Any]:
    """Return a connected, authenticated DEALER. Raises KernelUnavailable with the reason."""
    sock: zmq.Socket[Any] = context.socket(zmq.DEALER)
    sock.linger = 200
    sock.maxmsgsize = codec.MAX_FRAME_BYTES
    sock.sndhwm = sock.rcvhwm = 1000
    sock.reconnect_ivl = 100
    if credentials.operator:
        endpoint = paths.operator_endpoint(credentials.runtime)
    else:
        endpoint = paths.agents_endpoint(credentials.runtime)
        sock.plain_username = credentials.user.encode()
        sock.plain_password = credentials.secret.encode()
    monitor = sock.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )  # fmt: skip
    try:
        sock.connect(endpoint)
        _await_handshake(monitor, kernel_os_pid)
    except BaseException:
        sock.close(0)
        raise
    finally:
        if not sock.closed:
            sock.disable_monitor()
        monitor.close(0)
    return sock


def _await_handshake(monitor: zmq.Socket[Any], kernel_os_pid: int) -> None:
    if not monitor.poll(int(CONNECT_TIMEOUT_S * 1000)):
        raise KernelUnavailable(
            f"the kernel (pid {kernel_os_pid}) did not answer within {CONNECT_TIMEOUT_S:g} s",
            "see: aios daemon status; restart it with: aios daemon restart",
        )
    # zmq.utils.monitor does this too, but imports asyncio: half the cost of `import aios`
    (event,) = struct.unpack_from("=H", monitor.recv_multipart()[0])
    if event != zmq.EVENT_HANDSHAKE_SUCCEEDED:
        raise KernelUnavailable(
            "the kernel refused this connection",
            "an agent cannot use the operator's socket, and a kernel serves one user; "
            "start agents with: aios run agent.py",
        )


class Connection:
    """One authenticated connection to the kernel. Close it, or use it in ``with``."""

    def __init__(self, context: zmq.Context[Any], credentials: Credentials) -> None:
        self._runtime = credentials.runtime
        self.kernel_os_pid = paths.require_kernel(credentials.runtime)
        self._kernel_fd = _open_pidfd(self.kernel_os_pid)
        try:
            self._socket = open_socket(context, credentials, self.kernel_os_pid)
        except BaseException:
            os.close(self._kernel_fd)
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._kernel_fd, zmq.POLLIN)
        self._kernel_end = select.poll()
        self._kernel_end.register(self._kernel_fd, select.POLLIN)
        self._call_ids = itertools.count(1)
        self._streams: dict[int, deque[codec.ReplyFrame]] = {}
        self._closed = False

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; the kernel drops the pending calls. Idempotent."""
        if not self._closed:
            self._closed = True
            self._socket.close()
            os.close(self._kernel_fd)

    def call(self, name: str, body: msgspec.Struct, timeout_s: float | None = None) -> Any:
        """Make a call and return its reply, of the type in the table. Raises AiosError."""
        row = BY_NAME[name]
        call_id = self._send(row, body, timeout_s)
        try:
            reply = self._reply_to(call_id, _deadline(row, timeout_s))
        except KernelUnavailable:
            raise  # there is no kernel to tell
        except BaseException:  # on a deadline, too: the kernel's clock may have been stopped
            self._cancel(call_id)
            raise
        return result(row, reply)

    def _reply_to(self, call_id: int, deadline_s: float) -> codec.ReplyFrame:
        while True:
            reply = self._receive(deadline_s)
            if reply.call_id == call_id and reply.kind != codec.CHUNK:
                return reply
            self._keep(reply)

    def stream(
        self, name: str, body: msgspec.Struct, timeout_s: float | None = None
    ) -> Iterator[Chunk | Any]:
        """Make a call that streams: yield Chunks, then the reply. Closing the iterator early
        cancels the call. Other calls may be made between two chunks."""
        row = BY_NAME[name]
        call_id = self._send(row, body, timeout_s)
        deadline_s = _deadline(row, timeout_s)
        kept = self._streams[call_id] = deque()
        ended = False
        try:
            while not ended:
                reply = kept.popleft() if kept else self._receive(deadline_s)
                if reply.call_id != call_id:
                    self._keep(reply)
                elif reply.kind == codec.CHUNK:
                    yield codec.convert(reply.body, Chunk)
                else:
                    ended = True
                    yield result(row, reply)
        finally:
            del self._streams[call_id]
            if not ended:
                self._cancel(call_id)

    def begin(self, name: str, body: msgspec.Struct, timeout_s: float | None = None) -> int:
        """Start a call without waiting. Return its id, for ``poll``."""
        return self._send(BY_NAME[name], body, timeout_s)

    def filenos(self) -> tuple[int, int]:
        """Return the descriptors of the socket and of the kernel: call ``poll`` when one is
        readable."""
        return int(self._socket.fd), self._kernel_fd

    def poll(self, call_id: int) -> bool:
        """Return True if the call has ended, in success or failure. Raises KernelUnavailable."""
        while not self._socket.closed and self._socket.poll(0):
            reply = codec.decode_reply(self._socket.recv())
            if reply.call_id == call_id and reply.kind != codec.CHUNK:
                return True
        if self._kernel_end.poll(0):
            raise self._kernel_ended()
        return False

    def _send(self, row: Call, body: msgspec.Struct, timeout_s: float | None) -> int:
        call_id = next(self._call_ids)
        frame = codec.encode_call(row.number, call_id, timeout_s, body, served())
        if self._kernel_end.poll(0):
            raise self._kernel_ended()
        try:
            self._socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:
            raise KernelUnavailable(
                "the kernel accepts no more calls from this connection", "see: aios daemon status"
            ) from None
        return call_id

    def _keep(self, reply: codec.ReplyFrame) -> None:
        """Keep the reply to another call if it is for a stream in progress."""
        if reply.call_id in self._streams:
            self._streams[reply.call_id].append(reply)

    def _receive(self, deadline_s: float) -> codec.ReplyFrame:
        left_ms = max(0, int((deadline_s - time.monotonic()) * 1000))
        ready = dict(self._poller.poll(left_ms))
        if self._socket in ready:
            return codec.decode_reply(self._socket.recv())
        if ready:
            raise self._kernel_ended()
        raise DeadlineExceeded(
            "the kernel did not answer by the call's deadline", "see: aios daemon status"
        )

    def _kernel_ended(self) -> KernelUnavailable:
        """Drop what was sent and not received: the next kernel must not do it after its caller was
        told that it failed."""
        self._socket.close(0)
        return KernelUnavailable(
            f"the kernel (pid {self.kernel_os_pid}) has ended", paths.START_HINT
        )

    def _cancel(self, call_id: int) -> None:
        if not self._closed:
            frame = codec.encode_call(
                BY_NAME["cancel"].number, next(self._call_ids), None, CancelRequest(call_id)
            )
            try:
                self._socket.send(frame, zmq.DONTWAIT)
            except zmq.ZMQError:
                return  # the kernel is gone or stuck; it drops the call when we disconnect


def _deadline(row: Call, timeout_s: float | None) -> float:
    return time.monotonic() + (row.timeout_s if timeout_s is None else timeout_s) + GRACE_S


def result(row: Call, reply: codec.ReplyFrame) -> Any:
    """Return the reply's body as its type, or raise the error that it holds."""
    if reply.kind == codec.ERROR:
        raise from_body(codec.convert_error(reply.body))
    return codec.convert(reply.body, row.reply)


def _open_pidfd(os_pid: int) -> int:
    try:
        return os.pidfd_open(os_pid)
    except OSError:
        raise KernelUnavailable(
            f"the kernel (pid {os_pid}) has just ended", paths.START_HINT
        ) from None
