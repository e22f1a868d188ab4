"""Keeping the thread count right while other programs use the machine.

Engine threads spin while they wait for each other. When a neighbour takes a processor, they lose
their turn and steps slow down; fewer threads are faster then. Exactness does not depend on the
count: the self-test varies it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from aios.hw.engine.engine import Engine

_SLOWER = 1.35
"""Ratio of step times, now to before, that starts a trial of the thread counts."""
_WINDOW_STEPS = 8
_REMEMBERED_STEPS = 256
_MIN_PATIENCE_STEPS, _MAX_PATIENCE_STEPS = 24, 384
"""Steps between two trials."""
_TRIAL_STEPS = 3


class ThreadWatch:
    """Watches step times; when they grow, tries each thread count and keeps the fastest.

    The count in force is tried again, too: the slow steps may have been a passing disturbance.
    """

    def __init__(self, engine: Engine, counts: Sequence[int]) -> None:
        self._engine, self._counts = engine, list(counts)
        self._rows = 0
        self._recent: deque[float] = deque(maxlen=_REMEMBERED_STEPS)
        self._patience = self._wait = _MIN_PATIENCE_STEPS
        self._trying: list[int] = []
        self._tried: dict[int, list[float]] = {}
        self._before = 0

    def after(self, rows: int, seconds: float) -> None:
        """Note the time of a step with ``rows`` generating rows and no prompt."""
        if len(self._counts) < 2:
            return
        if rows != self._rows:
            self._restart(rows)
            return
        if self._trying:
            self._try(seconds)
            return
        self._recent.append(seconds)
        self._wait -= 1
        if self._wait <= 0 and self._is_trial_due():
            self._before = self._engine.info.threads
            self._tried = {}
            self._trying = [count for count in self._counts if count != self._before]
            self._trying.append(self._before)
            self._engine.set_threads(self._trying[0])

    def _is_trial_due(self) -> bool:
        recent = list(self._recent)
        if self._engine.info.threads != self._counts[0]:
            return len(recent) >= _WINDOW_STEPS  # below the maximum: is that still right?
        before, now = recent[:-_WINDOW_STEPS], recent[-_WINDOW_STEPS:]
        return len(before) >= _WINDOW_STEPS and median(now) > _SLOWER * median(before)

    def _try(self, seconds: float) -> None:
        times = self._tried.setdefault(self._trying[0], [])
        times.append(seconds)
        if len(times) <= _TRIAL_STEPS:
            return
        del times[0]  # the first step with another count creates the threads
        self._trying.pop(0)
        if self._trying:
            self._engine.set_threads(self._trying[0])
        else:
            self._settle(min(self._tried, key=lambda count: median(self._tried[count])))

    def _settle(self, count: int) -> None:
        """Set the count. After a change wait briefly for the next trial, else ever longer."""
        longer = min(_MAX_PATIENCE_STEPS, 2 * self._patience)
        self._wait = self._patience = longer if count == self._before else _MIN_PATIENCE_STEPS
        self._engine.set_threads(count)
        self._recent.clear()

    def _restart(self, rows: int) -> None:
        """Forget step times: those of another number of rows cannot be compared."""
        if self._trying:
            self._trying = []
            self._engine.set_threads(self._before)
        self._rows = rows
        self._recent.clear()
