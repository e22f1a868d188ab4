"""The thread watch, on an engine whose step times the test sets."""

from __future__ import annotations

from aios.hw.tuning.thread_watch import _WINDOW_STEPS, ThreadWatch
from tests.hw.tuning.test_step_times import Clocked


def _drive(watch: ThreadWatch, engine: Clocked, steps: int, rows: int = 4) -> None:
    for _ in range(steps):
        watch.after(rows, engine.cost(engine.info.threads, rows, rows))


def test_a_busy_neighbour_changes_the_count_until_it_ends() -> None:
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
    """Slow steps start a trial; if they are over by then, the count stays."""
    engine = Clocked(lambda threads, rows, tokens: {4: 0.1, 2: 0.15, 1: 0.25}[threads])
    watch = ThreadWatch(engine, [4, 2, 1])
    _drive(watch, engine, 60)
    for _ in range(_WINDOW_STEPS):
        watch.after(4, 0.9)  # the last of them starts a trial
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
    assert trying.info.threads == 4, "an interrupted trial changes nothing"


def test_a_single_count_never_changes() -> None:
    engine = Clocked(lambda threads, rows, tokens: 1.0)
    watch = ThreadWatch(engine, [4])
    _drive(watch, engine, 1000)
    assert engine.info.threads == 4
