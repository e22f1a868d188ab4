"""Keeping the thread count right while other programs use the machine.

Engine threads wait for each other several hundred times a step, and spin meanwhile. When one of
them has lost its processor to a neighbour, all wait until it gets another: with two threads on two
processors, one busy neighbour makes steps many times slower. One thread fewer keeps most of the
speed. So there are never more threads than processors that others leave free. Exactness does not
depend on the count: the self-test varies it.
"""

from __future__ import annotations

from collections.abc import Sequence

from aios.hw.engine.engine import Engine
from aios.hw.machine.cpu_use import OtherUse

_ASK_S = 0.1
"""Time between two looks at what others use."""
_CALM_S = 1.0
"""Time for which more threads must fit before their number grows."""
_SHARE = 0.3
"""Part of a processor that others may use without a thread giving way. One that competes with a
thread for one processor gets half of it."""


def fitting(counts: Sequence[int], cpus: int, others: float) -> list[int]:
    """Return the counts, in their order, that fit beside others; at least the smallest.

    ``others`` use so many of the ``cpus`` processors.
    """
    free = cpus - others + _SHARE
    return [count for count in counts if count <= free] or [min(counts)]


class ThreadWatch:
    """Sets the thread count between steps: the largest that fits beside other programs."""

    def __init__(self, engine: Engine, counts: Sequence[int], use: OtherUse | None = None) -> None:
        """``counts`` descend; the first is the fastest on an idle machine."""
        self._engine, self._counts, self._use = engine, list(counts), use or OtherUse()
        self._calm_s = 0.0

    def after_step(self) -> None:
        """Look at what others use, if it is time to, and set the count."""
        age_s = self._use.age_s()
        if len(self._counts) < 2 or age_s < _ASK_S:
            return
        fit = fitting(self._counts, len(self._use.cpus), self._use.ask())[0]
        now = self._engine.info.threads
        self._calm_s = self._calm_s + age_s if fit > now else 0.0
        if fit < now or self._calm_s >= _CALM_S:
            self._engine.set_threads(fit)
            self._calm_s = 0.0
