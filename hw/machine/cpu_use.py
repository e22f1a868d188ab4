"""How much of this machine's processors other programs use, from the kernel's counters.

Time of this process is not counted. Niced programs, such as agents, take less from others, so
their time counts for a tenth. The counters advance by ticks of 10 ms, so ask over a tenth of a
second or more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_STAT = Path("/proc/stat")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_NICE, _IDLE, _IOWAIT, _GUEST = 1, 3, 4, 8
"""Fields of a processor's line. Guest time is part of user time."""
_NICED = 0.9
"""Share of niced time that does not count."""


def busy_s(stat: str, cpus: frozenset[int]) -> float:
    """Return the seconds since boot for which these processors were busy, all together.

    A second of niced time counts for a tenth. ``stat`` is the text of /proc/stat. Raises
    ValueError if it has another form.
    """
    ticks = 0.0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in cpus:
            counts = [int(field) for field in fields[:_GUEST]]
            ticks += sum(counts) - counts[_IDLE] - counts[_IOWAIT] - _NICED * counts[_NICE]
    return ticks * _TICK_S


class OtherUse:
    """Measures the use by others from one question to the next. Not thread-safe."""

    def __init__(
        self,
        read: Callable[[], str] = _STAT.read_text,
        clock: Callable[[], float] = time.monotonic,
        own_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._read, self._clock, self._own_s = read, clock, own_s
        self.cpus = frozenset(os.sched_getaffinity(0))
        """The processors that this process may run on."""
        self._before = self._counters()

    def age_s(self) -> float:
        """Return the seconds since the last question."""
        return self._clock() - self._before[0]

    def ask(self) -> float:
        """Return how many processors others used on average since the last question.

        0 where the system does not tell.
        """
        before, self._before = self._before, self._counters()
        passed_s, busy_s, own_s = (b - a for a, b in zip(before, self._before, strict=True))
        return max(0.0, (busy_s - own_s) / passed_s) if passed_s > 0 else 0.0

    def _counters(self) -> tuple[float, float, float]:
        try:
            busy = busy_s(self._read(), self.cpus)
        except (OSError, ValueError, IndexError):
            busy = 0.0
        return self._clock(), busy, self._own_s()
