"""A non-blocking socket with a queue of what the other end has not taken yet.

Both ends of the kernel's socket pairs use it. It waits for nothing: the owner's event loop says
when the socket is readable or writable, and is told whether to wait for the latter.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable


class BufferedSocket:
    """Sends at once what it can and queues the rest. For streams and for packets."""

    def __init__(self, sock: socket.socket, want_write: Callable[[bool], None]) -> None:
        """``want_write`` is told when the owner starts or stops waiting until it is writable."""
        sock.setblocking(False)
        self.socket, self._want_write = sock, want_write
        self._queue: deque[memoryview] = deque()
        self._waits = False

    def send(self, data: bytes) -> None:
        """Send, or queue. Does nothing when the other end is gone: the next read says so."""
        self._queue.append(memoryview(data))
        if len(self._queue) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what is queued; to be called when the socket is writable."""
        try:
            while self._queue:
                sent = self.socket.send(self._queue[0])
                if sent < len(self._queue[0]):
                    self._queue[0] = self._queue[0][sent:]
                    break
                self._queue.popleft()
        except BlockingIOError:
            pass
        except OSError:  # half a message may be out: end the stream, so that the owner reads an end
            self._queue.clear()
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        if bool(self._queue) != self._waits:
            self._waits = not self._waits
            self._want_write(self._waits)

    def receive(self, size_bytes: int) -> bytes | None:
        """Return what has come, None when nothing has, b"" when the other end is gone."""
        try:
            return self.socket.recv(size_bytes)
        except BlockingIOError:
            return None
        except OSError:
            return b""
