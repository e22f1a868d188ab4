"""An engine's speed: rates of prefill, of one seat generating, and of all seats generating.

Measured for a limited time, so a slow model gets fewer repeats; results are medians of steps.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from aios.hw.engine.engine import GRID_TOKENS, Engine, ImageRejected, ImageTooLarge, Row, Tokens
from aios.hw.engine.image import image_bytes

from .candidate import TURN_PROMPT, Result

_BATCH_SEATS = 4
_WARM_TOKENS = 32
_PREFILL_S, _DECODE_S = 1.2, 0.6
"""Approximate time to measure prefill, and each kind of step."""
_MIN_STEPS, _MAX_STEPS = 3, 24


def measure_speed(engine: Engine) -> Result:
    """Measure ``prefill``, ``alone`` and ``together`` in tokens/s; leaves all seats empty."""
    info = engine.info
    prompt = min(TURN_PROMPT, info.context_tokens - _MAX_STEPS * 2 - 4)
    prefill = _prefill_rate(engine, prompt)
    _fill_seats(engine, prompt)
    alone = 1 / _step_s(engine, 1)
    width = min(info.rung.width or info.seats, info.seats)
    together = alone if width == 1 else info.seats / (_step_s(engine, width) * info.seats / width)
    _clear(engine)
    return Result(prefill=prefill, alone=alone, together=together, description=info.description)


def _prompt(engine: Engine, count: int) -> Tokens:
    vocab = engine.info.vocab_size
    random = np.random.default_rng(count)
    return random.integers(vocab // 8, vocab // 2, count).astype(np.int32)


def _prefill_rate(engine: Engine, prompt: int) -> float:
    """Measure prefill in tokens/s: a batch of prompts if the rung allows it, else one in chunks."""
    _clear(engine)
    tokens = _prompt(engine, prompt)
    start_s = time.perf_counter()
    engine.decode([Row(0, 0, tokens[:_WARM_TOKENS], True)])
    token_s = (time.perf_counter() - start_s) / len(tokens[:_WARM_TOKENS])
    seats = min(engine.info.seats, _BATCH_SEATS, max(1, int(_PREFILL_S / (token_s * prompt))))
    rates: list[float] = []
    began_s = time.perf_counter()
    while not rates or (len(rates) < 5 and time.perf_counter() - began_s < _PREFILL_S):
        _clear(engine)
        start_s = time.perf_counter()
        if engine.info.rung.mixed:
            engine.decode([Row(seat, 0, tokens, True) for seat in range(seats)])
            done = seats * prompt
        else:
            for at in range(0, prompt, GRID_TOKENS):
                engine.decode([Row(0, at, tokens[at : at + GRID_TOKENS], True)])
            done = prompt
        rates.append(done / (time.perf_counter() - start_s))
    return median(rates)


def _fill_seats(engine: Engine, prompt: int) -> None:
    """Put the same prompt into every seat, from an image if the model allows that."""
    _clear(engine)
    tokens = _prompt(engine, prompt)
    engine.decode([Row(0, 0, tokens, True)])
    image = memoryview(bytearray(image_bytes(engine.info, prompt)))
    try:
        size = engine.save(0, image) if engine.info.restorable else 0
    except (ImageRejected, ImageTooLarge):
        size = 0
    for seat in range(1, engine.info.seats):
        if size:
            engine.load(seat, image[:size], prompt)
        else:
            engine.decode([Row(seat, 0, tokens, True)])


def _step_s(engine: Engine, rows: int) -> float:
    """Measure the median time in seconds of a step in which ``rows`` seats generate."""
    token = _prompt(engine, 1)
    times: list[float] = []
    began_s = time.perf_counter()
    while len(times) <= _MIN_STEPS or (
        len(times) < _MAX_STEPS and time.perf_counter() - began_s < _DECODE_S
    ):
        start_s = time.perf_counter()
        engine.decode([Row(seat, engine.length(seat), token, True) for seat in range(rows)])
        times.append(time.perf_counter() - start_s)
    return median(times[1:])  # the first step creates the threads


def _clear(engine: Engine) -> None:
    for seat in range(engine.info.seats):
        engine.trim(seat, 0)
