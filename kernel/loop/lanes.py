"""Lanes: one thread for each thing that may not answer, such as a folder of the host or a store of
blobs. One that does not answer delays only those who use it.

``where`` names the thing. Its lane is a thread while it has jobs and some seconds after; the jobs
run one after another, in order. When too many jobs wait in a lane, the next is refused. Everything
but the jobs runs in the kernel's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from aios.syscalls.errors import StorageUnavailable

from .loop import Loop, Timer
from .task import Outcome, Promise
from .worker import Worker

T = TypeVar("T")

MAX_WAITING = 256
"""Limit on waiting jobs per lane."""
_IDLE_S = 10.0
_LATE_S = 10.0
"""The operator is warned of a job that takes longer."""
CLOSE_S = 3.0
"""How long the kernel waits at its end for lanes that do not answer."""


@dataclass(eq=False)
class _Lane:
    worker: Worker
    waiting: int = 0
    """Includes the job under way, which began at ``since_s``."""
    since_s: float = 0.0
    idle: Timer | None = None


class Lanes:
    """All lanes."""

    def __init__(self, loop: Loop, name: str) -> None:
        self._loop, self._name = loop, name
        self._lanes: dict[str, _Lane] = {}
        self._closed = False

    def submit(self, where: str, job: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        """Run ``job`` in the thread for ``where``, then ``done`` with its outcome in the kernel's
        thread; at once, with StorageUnavailable, when too many jobs wait there."""
        if self._closed:
            return
        lane = self._lanes.get(where) or self._open(where)
        if lane.waiting >= MAX_WAITING:
            done(Outcome(None, StorageUnavailable(
                f"{where} does not answer, or not fast enough: {lane.waiting} calls wait for it",
                "wait for some of them; the operator sees what does not answer: aios daemon status",
            )))  # fmt: skip
            return
        if lane.idle:
            lane.idle.cancel()
        if not lane.waiting:
            lane.since_s = self._loop.now()
        lane.waiting += 1

        def ended(outcome: Outcome[T]) -> None:
            lane.waiting -= 1
            lane.since_s = self._loop.now()
            if not lane.waiting and not self._closed:
                lane.idle = self._loop.at(lane.since_s + _IDLE_S, lambda: self._end(where))
            done(outcome)

        lane.worker.submit(job, ended)

    def run(self, where: str, job: Callable[[], T]) -> Promise[T]:
        """Run ``job`` in the thread for ``where``; the promise gets its outcome, or
        StorageUnavailable at once when too many jobs wait there."""
        promise: Promise[T] = Promise()
        self.submit(where, job, promise.settle)
        return promise

    def late(self) -> list[str]:
        """Return a line for each thing that has not answered for long."""
        now = self._loop.now()
        return [
            f"{where} has not answered for {now - lane.since_s:.0f} s"
            for where, lane in self._lanes.items()
            if lane.waiting and now - lane.since_s >= _LATE_S
        ]

    def close(self, until_s: float) -> None:
        """Finish the queued jobs, hand back the outcomes, end the threads. Threads that have not
        ended at ``until_s`` on the loop's clock are left behind."""
        self._closed = True
        for lane in self._lanes.values():
            if lane.idle:
                lane.idle.cancel()
            lane.worker.close(max(0.0, until_s - self._loop.now()))

    def _open(self, where: str) -> _Lane:
        lane = self._lanes[where] = _Lane(Worker(self._loop, self._name))
        return lane

    def _end(self, where: str) -> None:
        self._lanes.pop(where).worker.close()
