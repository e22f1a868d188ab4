"""Making grammars in a thread of their own: a slow one does not keep other requests waiting.

The first grammar of a core takes a second, as llguidance reads the model's vocabulary; a large
schema may take as long. The maker takes one after another, in order.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading

from aios.hw.engine.engine import Constraint, Engine, Grammar

Made = tuple[int, Grammar | Exception]
"""A request's number, and its grammar or why there is none."""


class GrammarMaker:
    """Makes the grammars of one core. ``fileno`` is readable when ``take`` has something."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._orders: queue.SimpleQueue[tuple[int, Constraint] | None] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[Made] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._wake

    def make(self, request: int, constraint: Constraint) -> None:
        """Make the grammar of a request."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
            self._thread.start()
        self._orders.put((request, constraint))

    def take(self) -> list[Made]:
        """Return the grammars that are ready."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        made: list[Made] = []
        with contextlib.suppress(queue.Empty):
            while True:
                made.append(self._made.get_nowait())
        return made

    def close(self) -> None:
        """End the thread after the grammar that it is making."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            request, constraint = order
            try:
                self._made.put((request, self._engine.grammar(constraint)))
            except Exception as error:  # the core tells the kernel
                self._made.put((request, error))
            os.eventfd_write(self._wake, 1)
