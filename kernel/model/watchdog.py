"""A watchdog: what has work to do and says nothing for too long is taken for hung.

It keeps one timer while an answer is awaited, and none otherwise. Time in which this process did
not run either (a machine that slept) does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aios.kernel.loop.loop import Loop, Timer

_LATE_S = 5.0
"""A timer that comes so much too late says that nothing ran here."""


class Watchdog:
    """Watches one process after another; ``hung`` is told for how many seconds it was quiet."""

    def __init__(
        self, loop: Loop, patience_s: Callable[[], float], hung: Callable[[float], None]
    ) -> None:
        """``patience_s`` is asked whenever it matters; 0: for ever."""
        self._loop, self._patience_s, self._hung = loop, patience_s, hung
        self._heard_s = 0.0
        self._timer: Timer | None = None

    def begin(self) -> None:
        """It has been given work, and will say something."""
        if self._timer is None and self._patience_s():
            self._heard_s = time.monotonic()
            self._wait()

    def heard(self) -> None:
        """It has said something."""
        self._heard_s = time.monotonic()

    def rest(self) -> None:
        """Nothing is awaited."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = self._loop.at(self._heard_s + self._patience_s(), self._due)

    def _due(self) -> None:
        assert self._timer
        now = time.monotonic()
        if now - self._timer.due_s > _LATE_S:
            self._heard_s = now
        quiet_s = now - self._heard_s
        if quiet_s >= self._patience_s():
            self._timer = None
            self._hung(quiet_s)
        else:
            self._wait()
