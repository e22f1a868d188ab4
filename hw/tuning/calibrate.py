"""Measured, not assumed: how long steps take here, and with how many threads they are fastest.

``calibrate`` runs once when a model is loaded, some tenths of a second. ``ThreadWatch`` looks at
the time of each step afterwards: when steps become slower than they were (a neighbour is busy, and
threads that spin for each other lose their turn), it tries the other counts for a few steps each
and stays with the fastest. Exactness does not depend on it: the self-test varies the threads.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from statistics import median

import msgspec
import numpy as np
import psutil

from aios.hw.engine.engine import Engine, Row

log = logging.getLogger("aios.calibrate")

_STEPS = 4
_PREFILL, _PREFILLS = 64, 3
_SLOWER = 1.35
"""Steps so many times as long as they were before are worth a look, which costs some steps."""
_WINDOW = 8
_REMEMBERED = 256
_LEAST_PATIENCE, _MOST_PATIENCE = 24, 384
"""Steps between two looks."""
_TRIES = 3


def thread_counts(asked: int | None, tuned: int | None = None) -> list[int]:
    """Counts worth trying, most first: just the one that was asked for; or as many as there are
    cores and fewer, and the one that tuning found fastest."""
    if asked is not None:
        return [asked]
    physical = psutil.cpu_count(logical=False) or 1
    usable = len(psutil.Process().cpu_affinity() or [0])
    most = max(1, min(physical, usable))
    return sorted({most, -(-most // 2), 1, min(tuned or 1, usable)}, reverse=True)


def calibrate(engine: Engine, counts: Sequence[int]) -> None:
    """Declare the engine's step times and set the fastest thread count. All seats end up empty."""
    best: tuple[float, int] | None = None
    for count in counts:
        engine.set_threads(count)
        _steps(engine, engine.info.seats, 1)  # the first builds the threads
        seconds = _steps(engine, engine.info.seats, _STEPS)
        if best is None or seconds < best[0] * 0.97:
            best = seconds, count
        else:
            break  # fewer still will not be faster
    assert best
    engine.set_threads(best[1])
    step_s = _steps(engine, 1, _STEPS)
    prefill_s = _prefill(engine)
    for seat in range(engine.info.seats):
        engine.trim(seat, 0)
    engine.declare(msgspec.structs.replace(
        engine.info, step_s=step_s, decode_token_s=best[0] / engine.info.seats,
        prefill_token_s=prefill_s / _PREFILL,
    ))  # fmt: skip
    log.info("%d threads; a step takes %.1f ms, a prompt token %.2f ms", best[1], step_s * 1e3,
             prefill_s * 1e3 / _PREFILL)  # fmt: skip


def _steps(engine: Engine, rows: int, count: int) -> float:
    """Seconds of a step in which so many seats generate, the best of a few."""
    token = np.array([engine.info.vocab_size // 2], np.int32)
    best = float("inf")
    for _ in range(count):
        start_s = time.perf_counter()
        engine.decode([Row(seat, engine.length(seat), token, True) for seat in range(rows)])
        best = min(best, time.perf_counter() - start_s)
    return best


def _prefill(engine: Engine) -> float:
    engine.trim(0, 0)
    tokens = np.arange(_PREFILL, dtype=np.int32) % 64 + min(64, engine.info.vocab_size // 2)
    best = float("inf")
    for _ in range(_PREFILLS):
        engine.trim(0, 0)
        start_s = time.perf_counter()
        engine.decode([Row(0, 0, tokens, False)])
        best = min(best, time.perf_counter() - start_s)
    return best


class ThreadWatch:
    """Keeps the thread count right while others use the machine, too.

    All counts are tried afresh, the one in force as well: the slow steps that gave cause to look
    may have been somebody's passing moment.
    """

    def __init__(self, engine: Engine, counts: Sequence[int]) -> None:
        self._engine, self._counts = engine, list(counts)
        self._rows = 0
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)
        self._patience = self._wait = _LEAST_PATIENCE
        self._trying: list[int] = []
        self._tried: dict[int, list[float]] = {}
        self._before = 0

    def after(self, rows: int, seconds: float) -> None:
        """A step with so many generating rows, and no prompt, took so long."""
        if len(self._counts) < 2:
            return
        if rows != self._rows:
            self._begin_anew(rows)
            return
        if self._trying:
            self._try(seconds)
            return
        self._recent.append(seconds)
        self._wait -= 1
        if self._wait <= 0 and self._slower():
            self._before = self._engine.info.threads
            self._tried = {}
            self._trying = [count for count in self._counts if count != self._before]
            self._trying.append(self._before)
            self._engine.set_threads(self._trying[0])

    def _slower(self) -> bool:
        recent = list(self._recent)
        if self._engine.info.threads != self._counts[0]:
            return len(recent) >= _WINDOW  # fewer than the machine has: is that still right?
        before, now = recent[:-_WINDOW], recent[-_WINDOW:]
        return len(before) >= _WINDOW and median(now) > _SLOWER * median(before)

    def _try(self, seconds: float) -> None:
        times = self._tried.setdefault(self._trying[0], [])
        times.append(seconds)
        if len(times) <= _TRIES:
            return  # the first step with another count builds the threads
        del times[0]
        self._trying.pop(0)
        if self._trying:
            self._engine.set_threads(self._trying[0])
        else:
            self._settle(min(self._tried, key=lambda count: median(self._tried[count])))

    def _settle(self, count: int) -> None:
        """Look again soon after a change, later and later while it proves right."""
        same = count == self._before
        self._patience = min(_MOST_PATIENCE, 2 * self._patience) if same else _LEAST_PATIENCE
        self._engine.set_threads(count)
        self._recent.clear()
        self._wait = self._patience

    def _begin_anew(self, rows: int) -> None:
        """Another number of rows: times cannot be compared."""
        if self._trying:
            self._trying = []
            self._engine.set_threads(self._before)
        self._rows = rows
        self._recent.clear()
