"""Calibration and the thread watch, on an engine whose steps take what the test says."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from aios.hw.engine.engine import EngineSettings, Logits, Row
from aios.hw.engine.fake import FakeEngine
from aios.hw.machine.threads import thread_counts
from aios.hw.tuning import step_times, thread_watch
from aios.hw.tuning.thread_watch import ThreadWatch


class Clocked(FakeEngine):
    """Decoding moves a clock on by ``cost(threads, rows, tokens)``."""

    def __init__(self, cost: Callable[[int, int, int], float]) -> None:
        super().__init__(EngineSettings(path="fake", seats=4, threads=4))
        self.cost, self.now = cost, 0.0

    def decode(self, rows: Sequence[Row]) -> dict[int, Logits]:
        tokens = sum(len(row.tokens) for row in rows)
        self.now += self.cost(self.info.threads, len(rows), tokens)
        return super().decode(rows)


def _calibrated(monkeypatch: pytest.MonkeyPatch, cost: Callable[[int, int, int], float]) -> Clocked:
    engine = Clocked(cost)
    monkeypatch.setattr(time, "perf_counter", lambda: engine.now)
    step_times.calibrate(engine, [4, 2, 1])
    return engine


def test_it_declares_what_steps_take_and_leaves_seats_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = _calibrated(monkeypatch, lambda threads, rows, tokens: (0.1 + 0.01 * tokens) / threads)
    info = engine.info
    assert info.threads == 4
    assert info.step_s == pytest.approx(0.11 / 4)
    assert info.decode_token_s == pytest.approx(0.14 / 4 / 4)
    assert info.prefill_token_s == pytest.approx(0.74 / 4 / 64)
    assert [engine.length(seat) for seat in range(4)] == [0] * 4


def test_fewer_threads_are_kept_when_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {4: 0.5, 2: 0.1, 1: 0.3}
    engine = _calibrated(monkeypatch, lambda threads, rows, tokens: cost[threads])
    assert engine.info.threads == 2


def _drive(watch: ThreadWatch, engine: Clocked, steps: int, rows: int = 4) -> None:
    for _ in range(steps):
        watch.after(rows, engine.cost(engine.info.threads, rows, rows))


def test_a_busy_neighbour_is_noticed_and_its_end_too() -> None:
    times = {4: 0.1, 2: 0.15, 1: 0.25}
    engine = Clocked(lambda threads, rows, tokens: times[threads])
    watch = ThreadWatch(engine, [4, 2, 1])
    _drive(watch, engine, 300)
    assert engine.info.threads == 4, "nothing has changed"
    times[4] = 0.9
    _drive(watch, engine, 300)
    assert engine.info.threads == 2
    times[4] = 0.1
    _drive(watch, engine, 300)
    assert engine.info.threads == 4


def test_a_passing_disturbance_changes_nothing() -> None:
    """Slow steps give cause to look; when they are over by then, the count stays."""
    engine = Clocked(lambda threads, rows, tokens: {4: 0.1, 2: 0.15, 1: 0.25}[threads])
    watch = ThreadWatch(engine, [4, 2, 1])
    _drive(watch, engine, 60)
    for _ in range(thread_watch._WINDOW_STEPS):
        watch.after(4, 0.9)  # the last of them starts the look
    _drive(watch, engine, 30)
    assert engine.info.threads == 4


def test_steps_of_other_sizes_are_not_compared() -> None:
    engine = Clocked(lambda threads, rows, tokens: 0.1 * rows)
    watch = ThreadWatch(engine, [4, 1])
    for rows in (1, 4) * 200:
        _drive(watch, engine, 1, rows)
    assert engine.info.threads == 4
    trying = Clocked(lambda threads, rows, tokens: 0.1)
    watch = ThreadWatch(trying, [4, 1])
    _drive(watch, trying, 60)
    trying.cost = lambda threads, rows, tokens: 1.0
    for _ in range(600):
        _drive(watch, trying, 1)
        if trying.info.threads == 1:
            break
    assert trying.info.threads == 1, "it tries the other count"
    _drive(watch, trying, 1, rows=2)
    assert trying.info.threads == 4, "an interrupted look changes nothing"


def test_one_count_is_never_changed() -> None:
    assert thread_counts(3) == [3]
    assert thread_counts(None)[-1] == 1
    engine = Clocked(lambda threads, rows, tokens: 1.0)
    watch = ThreadWatch(engine, [4])
    _drive(watch, engine, 1000)
    assert engine.info.threads == 4
