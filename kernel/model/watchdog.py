"""The watchdog: a process that has work to do and is silent for too long is taken for hung.

It keeps one timer while an answer is awaited, and none otherwise. Time in which the kernel itself
did not run (on a machine that slept) does not count.
"""

from __future__ import annotations

from collections.abc import Callable

from aios.kernel.loop.loop import Loop, Timer

_LATE_S = 5.0
"""A timer that is this late shows that the kernel did not run."""


class Watchdog:
    """Watches one process after another; calls ``hung`` with the seconds of silence."""

    def __init__(
        self, loop: Loop, patience_s: Callable[[], float], hung: Callable[[float], None]
    ) -> None:
        """``patience_s`` returns the longest silence allowed now; 0: unlimited."""
        self._loop, self._patience_s, self._hung = loop, patience_s, hung
        self._heard_s = 0.0
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Start watching, if not yet: the process has been given work."""
        if self._timer is None and self._patience_s():
            self.heard()
            self._wait()

    def heard(self) -> None:
        """Note that the process has said something."""
        self._heard_s = self._loop.now()

    def rest(self) -> None:
        """Stop watching: nothing is awaited."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = self._loop.at(self._heard_s + self._patience_s(), self._due)

    def _due(self) -> None:
        assert self._timer
        now = self._loop.now()
        if now - self._timer.due_s > _LATE_S:
            self._heard_s = now
        quiet_s = now - self._heard_s
        if quiet_s >= self._patience_s():
            self._timer = None
            self._hung(quiet_s)
        else:
            self._wait()
