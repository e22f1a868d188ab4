"""Step times: the fastest thread count for a model on this machine, and how long its steps take.

They are measured once, in idle time, and kept. Until then a core estimates them in a few steps when
it loads the model. Exactness does not depend on them: the self-test varies the thread count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from aios.hw.engine.engine import Engine, Row, Rung

from .verdict_cache import Finding, Subject

_STEPS = 4
_PREFILL_TOKENS, _PREFILLS = 64, 3
_ESTIMATE_TOKENS = 16
BUSY = 0.5
"""Processors used by others from which a measurement is not kept."""


class StepTimes(msgspec.Struct, frozen=True):
    """Seconds for a step with one row, for a generated token when all seats generate, and for a
    prompt token in a chunk; and the thread count with which they were measured."""

    threads: int
    step_s: float
    decode_token_s: float
    prefill_token_s: float


def step_times(
    cache_dir: str | None, subject: Subject, rung: Rung, seats: int, counts: Sequence[int]
) -> Finding[StepTimes]:
    """Look up what was measured for a model with these settings; ``counts`` could be chosen."""
    return Finding(StepTimes, cache_dir, subject, "steps", f"{rung!r} {seats} {tuple(counts)}")


def declare(engine: Engine, times: StepTimes) -> None:
    """Set the thread count and declare the times."""
    engine.set_threads(times.threads)
    engine.declare(msgspec.structs.replace(
        engine.info, step_s=times.step_s, decode_token_s=times.decode_token_s,
        prefill_token_s=times.prefill_token_s,
    ))  # fmt: skip


def estimate(engine: Engine, threads: int) -> StepTimes:
    """Estimate the times in four steps with this thread count; leaves all seats empty."""
    engine.set_threads(threads)
    seats = engine.info.seats
    tokens = _prompt(engine, _ESTIMATE_TOKENS)
    prefill_s = _time_s(engine, [Row(0, 0, tokens, False)])
    step_s = min(_decode_s(engine, 1, 1), _decode_s(engine, 1, 1))
    decode_s = _decode_s(engine, seats, 1)
    _clear(engine)
    return StepTimes(threads, step_s, decode_s / seats, prefill_s / _ESTIMATE_TOKENS)


def measure(engine: Engine, counts: Sequence[int]) -> StepTimes:
    """Measure with each of the thread counts, which descend; leaves all seats empty.

    Takes a few tenths of a second for a small model.
    """
    best: tuple[float, int] | None = None
    for count in counts:
        engine.set_threads(count)
        _decode_s(engine, engine.info.seats, 1)  # the first step creates the threads
        seconds = _decode_s(engine, engine.info.seats, _STEPS)
        if best is None or seconds < best[0] * 0.97:
            best = seconds, count
        else:
            break  # even fewer threads will not be faster
    assert best
    engine.set_threads(best[1])
    step_s = _decode_s(engine, 1, _STEPS)
    prefill_s = _prefill_s(engine)
    _clear(engine)
    return StepTimes(best[1], step_s, best[0] / engine.info.seats, prefill_s / _PREFILL_TOKENS)


def _decode_s(engine: Engine, rows: int, steps: int) -> float:
    """Time steps in which ``rows`` seats generate; return the shortest, in seconds."""
    token = np.array([engine.info.vocab_size // 2], np.int32)
    return min(
        _time_s(engine, [Row(seat, engine.length(seat), token, True) for seat in range(rows)])
        for _ in range(steps)
    )


def _prefill_s(engine: Engine) -> float:
    """Time the prefill of a short prompt; return the shortest, in seconds."""
    tokens = _prompt(engine, _PREFILL_TOKENS)
    times = []
    for _ in range(_PREFILLS):
        engine.trim(0, 0)
        times.append(_time_s(engine, [Row(0, 0, tokens, False)]))
    return min(times)


def _prompt(engine: Engine, count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    vocab = engine.info.vocab_size
    return (np.arange(count, dtype=np.int32) % 64 + min(64, vocab // 2)).astype(np.int32)


def _clear(engine: Engine) -> None:
    for seat in range(engine.info.seats):
        engine.trim(seat, 0)


def _time_s(engine: Engine, rows: list[Row]) -> float:
    start_s = time.perf_counter()
    engine.decode(rows)
    return time.perf_counter() - start_s
