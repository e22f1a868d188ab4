"""The event loop: sockets, descriptors and timers of the one kernel thread.

It waits once for everything, so nothing polls. All descriptors are behind one epoll, so the cost of
a turn does not grow with the number of idle processes that are watched.
"""

from __future__ import annotations

import heapq
import itertools
import select
from collections.abc import Callable
from typing import Any

import zmq

from .clock import Clock

_MAX_WAIT_MS = 3_600_000


class Timer:
    """A callback that is due at a time, unless it is cancelled."""

    __slots__ = ("_callback", "due_s")

    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Call it off. Idempotent."""
        self._callback = None

    @property
    def cancelled(self) -> bool:
        """It has run, or was cancelled."""
        return self._callback is None

    def run(self) -> None:
        """Run it, once."""
        callback, self._callback = self._callback, None
        if callback:
            callback()


class Loop:
    """Calls back when a descriptor is readable or writable, or a timer is due."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.now = self.clock.now
        self._poller = zmq.Poller()
        self._epoll = select.epoll()
        self._poller.register(self._epoll.fileno(), zmq.POLLIN)
        self._sockets: dict[Any, Callable[[], None]] = {}
        self._files: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._compact_at = 64
        self._order = itertools.count()
        self._running = False

    def watch_socket(self, sock: zmq.Socket[Any], callback: Callable[[], None]) -> None:
        """Call back when messages can be read."""
        self._sockets[sock] = callback
        self._poller.register(sock, zmq.POLLIN)

    def unwatch_socket(self, sock: zmq.Socket[Any]) -> None:
        """Stop watching."""
        del self._sockets[sock]
        self._poller.unregister(sock)

    def watch(self, fd: int, callback: Callable[[int], None]) -> None:
        """Call back with epoll's event bits when the descriptor is readable or closed."""
        self._files[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def want_write(self, fd: int, wanted: bool) -> None:
        """Also call back when the descriptor is writable, or no longer."""
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def unwatch(self, fd: int) -> None:
        """Stop watching; before the descriptor is closed."""
        del self._files[fd]
        self._epoll.unregister(fd)

    def at(self, due_s: float, callback: Callable[[], None]) -> Timer:
        """Run a callback at a time on the loop's clock."""
        timer = Timer(due_s, callback)
        heapq.heappush(self._timers, (due_s, next(self._order), timer))
        if len(self._timers) > self._compact_at:
            self._timers = [entry for entry in self._timers if not entry[2].cancelled]
            heapq.heapify(self._timers)
            self._compact_at = max(64, 2 * len(self._timers))
        return timer

    def after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Run a callback after a delay; 0: in this turn or the next, not within this call."""
        return self.at(self.now() + delay_s, callback)

    def stop(self) -> None:
        """End ``run`` after the callback under way."""
        self._running = False

    def run(self) -> None:
        """Serve until stopped."""
        self._running = True
        while self._running:
            self.turn(_MAX_WAIT_MS)

    def turn(self, most_ms: int) -> None:
        """Wait for events, at most ``most_ms``, and handle those that there are."""
        for source, _ in self._poller.poll(self._patience_ms(most_ms)):
            callback = self._sockets.get(source)
            if callback:
                callback()
            elif source == self._epoll.fileno():
                self._serve_files()
        self._serve_timers()

    def _patience_ms(self, most_ms: int) -> int:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return most_ms
        left_s = self._timers[0][0] - self.now()
        return max(0, min(most_ms, int(left_s * 1000) + 1))

    def _serve_files(self) -> None:
        for fd, events in self._epoll.poll(0):
            handler = self._files.get(fd)
            if handler:
                handler(events)

    def _serve_timers(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2].run()

    def close(self) -> None:
        """Free the epoll descriptor."""
        self._epoll.close()
