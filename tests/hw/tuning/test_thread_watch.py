"""The thread watch, beside neighbours whose use of processors the test sets."""

from __future__ import annotations

import os

import pytest

from aios.hw.engine.engine import EngineSettings
from aios.hw.engine.fake import FakeEngine
from aios.hw.machine.cpu_use import OtherUse
from aios.hw.tuning.thread_watch import ThreadWatch, fitting

CPUS = len(os.sched_getaffinity(0))


class _Machine:
    """A machine whose clock and counters the test sets; the core itself uses no time."""

    def __init__(self, threads: int, counts: list[int]) -> None:
        self.now_s = self.busy_s = 0.0
        self.use = OtherUse(self._stat, lambda: self.now_s, lambda: 0.0)
        self.use.cpus = frozenset(range(4))
        self.engine = FakeEngine(EngineSettings(path="fake", threads=threads))
        self.watch = ThreadWatch(self.engine, counts, self.use)

    def _stat(self) -> str:
        first = min(os.sched_getaffinity(0))
        return f"cpu 0\ncpu{first} {round(self.busy_s * 100)} 0 0 99 99 0 0 0 7 7\nintr 1"

    def run(self, seconds: float, others: float, step_s: float = 0.05) -> int:
        """Make steps beside ``others`` busy processors; return the thread count after them."""
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self.now_s += step_s
            self.busy_s += step_s * others
            self.watch.after_step()
        return self.engine.info.threads


@pytest.fixture(autouse=True)
def _one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})


def _machine(threads: int = 4) -> _Machine:
    machine = _Machine(threads, [4, 2, 1])
    machine.use.cpus = frozenset({3, 4, 5, 6})
    return machine


def test_a_neighbour_takes_threads_at_once_and_gives_them_back_when_it_has_ended() -> None:
    machine = _machine()
    assert machine.run(5, others=0.0) == 4
    assert machine.run(0.15, others=1.0) == 2, "within a tenth of a second"
    assert machine.run(5, others=1.0) == 2
    assert machine.run(0.15, others=3.0) == 1
    assert machine.run(5, others=9.0) == 1, "at least one thread"
    assert machine.run(0.9, others=0.0) == 1, "not before a calm second"
    assert machine.run(0.5, others=0.0) == 4


def test_one_slow_step_is_enough() -> None:
    machine = _machine()
    assert machine.run(2.0, others=2.0, step_s=2.0) == 2


def test_short_bursts_change_nothing() -> None:
    machine = _machine()
    for _ in range(20):
        machine.run(0.05, others=0.4)
        assert machine.run(0.05, others=0.0) == 4


def test_a_neighbour_that_comes_and_goes_does_not_make_it_swing() -> None:
    machine, changes, before = _machine(), 0, 4
    for _ in range(20):
        for others in (2.0, 0.0):
            now = machine.run(0.5, others=others)
            changes, before = changes + (now != before), now
    assert changes == 1


def test_a_single_count_never_changes() -> None:
    machine = _machine()
    machine.watch = ThreadWatch(machine.engine, [4], machine.use)
    assert machine.run(5, others=4.0) == 4


def test_counters_that_cannot_be_read_change_nothing() -> None:
    for text in ("", "cpu3 1 2", "cpu3 a b c d e"):
        use = OtherUse(lambda text=text: text, lambda: 1.0, lambda: 0.0)  # type: ignore[misc]
        assert use.ask() == 0.0


@pytest.mark.parametrize(
    ("cpus", "others", "fit"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 0.31, 1), (2, 2.0, 1), (64, 30.0, 8), (64, 57.0, 4)],
)
def test_counts_that_fit(cpus: int, others: float, fit: int) -> None:
    assert fitting([8, 4, 2, 1], cpus, others)[0] == fit
