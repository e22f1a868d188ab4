"""Restarts of a part that dies: at once after the first death, after growing pauses when it keeps
dying, and no more after too many deaths in a row without success.

Every child process of the kernel that is replaced after a death (core, embedder, zygote, toolhost)
has one of these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .loop import Loop, Timer

WINDOW_S = 5.0
"""Deaths within this time of each other lengthen the pause."""
MAX_PAUSE_S = 5.0
ROW_S = 60.0
"""Deaths that are further apart are not in a row."""
_FIRST_PAUSE_S = 0.4


class Respawn:
    """The restarts of one part."""

    def __init__(self, loop: Loop, restart: Callable[[], None], max_deaths: int = 0) -> None:
        """``restart`` starts the part again. ``max_deaths``: deaths in a row, without success in
        between, after which the part is given up; 0: never."""
        self._loop, self._restart, self._max_deaths = loop, restart, max_deaths
        self._deaths: deque[float] = deque(maxlen=16)
        self._fruitless = 0
        self._timer: Timer | None = None
        self.restarts = 0

    @property
    def waiting(self) -> bool:
        """A restart is due."""
        return self._timer is not None and not self._timer.cancelled

    def worked(self) -> None:
        """The part did what it is for: earlier deaths no longer count towards giving up."""
        self._fruitless = 0

    def died(self) -> bool:
        """Count a death and schedule the restart. Return False when the part is to be given up."""
        now = self._loop.now()
        if self._deaths and now - self._deaths[-1] > ROW_S:
            self._fruitless = 0
        self._deaths.append(now)
        self._fruitless += 1
        self.cancel()
        if self._max_deaths and self._fruitless >= self._max_deaths:
            self._fruitless = 0
            return False
        self.restarts += 1
        self._timer = self._loop.at(now + self._pause_s(now), self._restart)
        return True

    def cancel(self) -> None:
        """Call off a restart that is due."""
        if self._timer:
            self._timer.cancel()

    def _pause_s(self, now: float) -> float:
        recent = sum(now - death < WINDOW_S for death in self._deaths)
        return 0.0 if recent <= 1 else min(MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (recent - 2))
