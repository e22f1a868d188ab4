"""Calibration, on an engine whose step times the test sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from aios.hw.engine.engine import EngineSettings, Logits, Row
from aios.hw.engine.fake import FakeEngine
from aios.hw.tuning.step_times import declare, estimate, measure


class Clocked(FakeEngine):
    """Each decode advances a clock by ``cost(threads, rows, tokens)``."""

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
    declare(engine, measure(engine, [4, 2, 1]))
    return engine


def test_calibration_declares_step_times_and_leaves_seats_empty(
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


def test_an_estimate_takes_four_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Clocked(lambda threads, rows, tokens: (0.1 + 0.01 * tokens) / threads)
    monkeypatch.setattr(time, "perf_counter", lambda: engine.now)
    times = estimate(engine, 2)
    assert engine._calls == 4 and times.threads == 2 == engine.info.threads
    assert times.step_s == pytest.approx(0.11 / 2)
    assert times.decode_token_s == pytest.approx(0.14 / 2 / 4)
    assert times.prefill_token_s == pytest.approx(0.26 / 2 / 16)
    assert [engine.length(seat) for seat in range(4)] == [0] * 4
