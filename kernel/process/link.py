"""The kernel's end of a socket pair to a part of its own (core, embedder): framed, never blocking.

What the other end cannot take yet is queued and sent when it can, so a stopped core never stops
the kernel.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from aios.hw.core.messages import LENGTH, MAX_MESSAGE_BYTES, encode
from aios.kernel.loop.loop import Loop

_READ_BYTES = 1 << 18

E = TypeVar("E")


class Link(Generic[E]):
    """Sends commands, hands on events; ``on_close`` once when the other end is gone."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_event: Callable[[E], None],
        on_close: Callable[[], None],
        decode: Callable[[bytes], E],
    ) -> None:
        self._loop, self._socket = loop, sock
        self._on_event, self._on_close, self._decode = on_event, on_close, decode
        self._in = bytearray()
        self._out = bytearray()
        self._open = True
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._ready)

    def send(self, command: msgspec.Struct) -> None:
        """Send, or queue; nothing happens when the link is closed."""
        if not self._open:
            return
        was_idle = not self._out
        self._out += encode(command)
        if was_idle:
            self._flush()
            if self._out and self._open:
                self._loop.want_write(self._socket.fileno(), True)

    def close(self) -> None:
        """Close without a callback. Idempotent."""
        if self._open:
            self._open = False
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT and self._out:
            self._flush()
            if not self._out and self._open:
                self._loop.want_write(self._socket.fileno(), False)
        if self._open and events & ~select.EPOLLOUT:
            self._read()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        del self._out[:sent]

    def _read(self) -> None:
        try:
            part = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        self._in += part
        for event in self._whole():
            if self._open:
                self._on_event(event)
        if not part and self._open:
            self._lost()

    def _whole(self) -> Iterator[E]:
        at = 0
        while len(self._in) - at >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._in, at)
            if size > MAX_MESSAGE_BYTES:
                raise ValueError(f"a part announced a message of {size} bytes")
            if len(self._in) - at - LENGTH.size < size:
                break
            start = at + LENGTH.size
            at = start + size
            yield self._decode(bytes(self._in[start:at]))
        del self._in[:at]

    def _lost(self) -> None:
        self.close()
        self._on_close()
