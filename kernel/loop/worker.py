"""A thread for work that blocks (files, SQLite), so that the kernel's own thread never does.

Jobs run one after another, in the order of submission; outcomes come back in the kernel's thread in
the same order. A job must not touch kernel state: it gets what it needs and returns what it found.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from .loop import Loop
from .task import Outcome, Promise

T = TypeVar("T")


class Worker:
    """One thread and its queue; ``close`` finishes what was submitted."""

    def __init__(self, loop: Loop, name: str) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._done: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        loop.watch(self._wake, self._deliver)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        """Run ``job`` in the thread, then ``done`` with its outcome in the kernel's."""

        def work() -> None:
            try:
                outcome = Outcome(job(), None)
            except Exception as error:
                outcome = Outcome[T](None, error)
            self._done.append(lambda: done(outcome))
            os.eventfd_write(self._wake, 1)

        self._jobs.put(work)

    def run(self, job: Callable[[], T]) -> Promise[T]:
        """Run ``job`` in the thread; the promise gets its outcome."""
        promise: Promise[T] = Promise()
        self.submit(job, promise.settle)
        return promise

    def close(self, patience_s: float | None = None) -> None:
        """Finish the queued jobs, hand back the outcomes, end the thread.

        A thread that has not ended after ``patience_s`` is left behind and its outcomes are lost;
        it ends with the process.
        """
        self._jobs.put(None)
        self._thread.join(patience_s)
        left = self._thread.is_alive()
        self._hand_back()
        self._loop.unwatch(self._wake)
        if not left:
            os.close(self._wake)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _deliver(self, _: int) -> None:
        os.eventfd_read(self._wake)
        self._hand_back()

    def _hand_back(self) -> None:
        while self._done:
            self._done.popleft()()
