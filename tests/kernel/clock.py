"""A clock for the kernel's loop that moves only when a test moves it."""

from __future__ import annotations

import time

from aios.kernel.loop.clock import Clock
from aios.kernel.loop.loop import Loop


class FakeClock(Clock):
    """Time stands still between two calls of ``advance``."""

    def __init__(self) -> None:
        self._now_s, self._unix_s = time.monotonic(), time.time()

    def now(self) -> float:
        return self._now_s

    def unix(self) -> float:
        return self._unix_s

    def advance(self, seconds: float) -> None:
        """Let time pass at once."""
        self._now_s += seconds
        self._unix_s += seconds


def next_timer(loop: Loop, clock: FakeClock) -> bool:
    """Advance the clock just beyond the next timer of the loop and run it. False: there is none."""
    due = [due_s for due_s, _, timer in loop._timers if not timer.cancelled]
    if due:
        clock.advance(max(0.0, min(due) - clock.now()) + 1e-6)
        loop.turn(0)
    return bool(due)
