"""The kernel's end of a socket pair to a child process: messages out, messages in, never blocking.

What the other end cannot take yet is queued, so a stopped child never stops the kernel.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Generic, TypeVar

from aios.syscalls.buffered_socket import BufferedSocket

from .loop import Loop

_READ_BYTES = 1 << 18

M = TypeVar("M")
E = TypeVar("E")


class Link(Generic[M, E]):
    """Sends messages ``M``, hands on events ``E``."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_event: Callable[[E], None],
        on_close: Callable[[], None],
        encode: Callable[[M], bytes],
        take: Callable[[bytearray], E | None],
    ) -> None:
        """``take`` removes the first whole event from a buffer; None when there is none yet.
        ``on_close`` is called once, when the other end is gone."""
        self._loop, self._on_event, self._on_close = loop, on_event, on_close
        self._encode, self._take = encode, take
        self._fd = sock.fileno()
        self._buffered = BufferedSocket(sock, lambda on: loop.want_write(self._fd, on))
        self._in = bytearray()
        self._open = True
        loop.watch(self._fd, self._ready)

    def send(self, message: M) -> None:
        """Send, or queue. Does nothing when the link is closed."""
        if self._open:
            self._buffered.send(self._encode(message))

    def close(self) -> None:
        """Close without a callback. Idempotent."""
        if self._open:
            self._open = False
            self._loop.unwatch(self._fd)
            self._buffered.socket.close()

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._buffered.flush()
        if self._open and events & ~select.EPOLLOUT:
            self._read()

    def _read(self) -> None:
        part = self._buffered.receive(_READ_BYTES)
        if part is None:
            return
        self._in += part
        while self._open and (event := self._take(self._in)) is not None:
            self._on_event(event)
        if not part and self._open:
            self.close()
            self._on_close()
