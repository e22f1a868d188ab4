"""The kernel's end of the zygote: starts agents, signals them, and hears how they end.

Promises that no zygote and no agent outlives ``close``, and that a zygote that dies is replaced
(its agents die with it). Never blocks: orders that the zygote cannot take yet wait in a queue.
"""

from __future__ import annotations

import logging
import select
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable

from aios.kernel.loop.loop import Loop, Timer
from aios.syscalls.launch import MAX_PACKET_BYTES, Order, Report, decode_report, encode

log = logging.getLogger("aios.launcher")

CLOSE_TIMEOUT_S = 10.0
StartZygote = Callable[[socket.socket], "subprocess.Popen[bytes]"]


class Launcher:
    """One zygote after another."""

    def __init__(
        self,
        loop: Loop,
        start: StartZygote,
        on_report: Callable[[Report], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._loop, self._start = loop, start
        self._on_report, self._on_lost = on_report, on_lost
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._queue: deque[bytes] = deque()
        self._started_s = 0.0
        self._restart: Timer | None = None

    @property
    def os_pid(self) -> int:
        """The zygote's host pid, 0 when there is none."""
        return self._process.pid if self._process else 0

    def open(self) -> None:
        """Start a zygote."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = self._start(theirs)
        ours.setblocking(False)
        self._socket = ours
        self._started_s = time.monotonic()
        self._loop.watch(ours.fileno(), self._ready)
        self._flush()

    def send(self, order: Order) -> None:
        """Send, or queue. Raises ValueError when the order is too large for a packet."""
        packet = encode(order)
        if len(packet) > MAX_PACKET_BYTES:
            raise ValueError(
                f"arguments and environment take {len(packet):,} bytes; "
                f"the limit is {MAX_PACKET_BYTES:,}"
            )
        self._queue.append(packet)
        if len(self._queue) == 1:
            self._flush()

    def close(self) -> None:
        """End the zygote and with it every agent; waits for that."""
        if self._restart:
            self._restart.cancel()
        self._drop_socket()
        if self._process:
            try:
                self._process.wait(CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                log.error("the zygote did not end within %g s; killing it", CLOSE_TIMEOUT_S)
                self._process.kill()
                self._process.wait()
            self._process = None

    def _flush(self) -> None:
        if self._socket is None:
            return
        try:
            while self._queue:
                self._socket.send(self._queue[0])
                self._queue.popleft()
        except BlockingIOError:
            pass
        except OSError:
            return  # it is gone; the readable end says so next
        self._loop.want_write(self._socket.fileno(), bool(self._queue))

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if not events & ~select.EPOLLOUT or self._socket is None:
            return
        try:
            packet = self._socket.recv(MAX_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            self._on_report(decode_report(packet))
        else:
            self._lost()

    def _drop_socket(self) -> None:
        if self._socket:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _lost(self) -> None:
        self._drop_socket()
        assert self._process
        self._process.kill()
        code = self._process.wait()
        self._process = None
        self._queue.clear()
        log.error("the zygote ended (exit status %d); starting another", code)
        self._on_lost()
        now = time.monotonic()
        delay_s = 0.0 if now - self._started_s > 5.0 else 1.0
        self._restart = self._loop.at(now + delay_s, self.open)
