"""Calibration at load: the fastest thread count, and how long steps take with it.

Takes a few tenths of a second. Does not affect exactness: the self-test varies the thread count.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import msgspec
import numpy as np

from aios.hw.engine.engine import Engine, Row

log = logging.getLogger("aios.calibrate")

_STEPS = 4
_PREFILL_TOKENS, _PREFILLS = 64, 3


def calibrate(engine: Engine, counts: Sequence[int]) -> None:
    """Set the fastest of the thread counts and declare the step times; leaves all seats empty.

    ``counts`` descend.
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
    for seat in range(engine.info.seats):
        engine.trim(seat, 0)
    engine.declare(msgspec.structs.replace(
        engine.info, step_s=step_s, decode_token_s=best[0] / engine.info.seats,
        prefill_token_s=prefill_s / _PREFILL_TOKENS,
    ))  # fmt: skip
    log.info("%d threads; a step takes %.1f ms, a prompt token %.2f ms", best[1], step_s * 1e3,
             prefill_s * 1e3 / _PREFILL_TOKENS)  # fmt: skip


def _decode_s(engine: Engine, rows: int, steps: int) -> float:
    """Time steps in which ``rows`` seats generate; return the shortest, in seconds."""
    token = np.array([engine.info.vocab_size // 2], np.int32)
    return min(
        _time_s(engine, [Row(seat, engine.length(seat), token, True) for seat in range(rows)])
        for _ in range(steps)
    )


def _prefill_s(engine: Engine) -> float:
    """Time the prefill of a short prompt; return the shortest, in seconds."""
    tokens = np.arange(_PREFILL_TOKENS, dtype=np.int32) % 64 + min(64, engine.info.vocab_size // 2)
    times = []
    for _ in range(_PREFILLS):
        engine.trim(0, 0)
        times.append(_time_s(engine, [Row(0, 0, tokens, False)]))
    return min(times)


def _time_s(engine: Engine, rows: list[Row]) -> float:
    start_s = time.perf_counter()
    engine.decode(rows)
    return time.perf_counter() - start_s
