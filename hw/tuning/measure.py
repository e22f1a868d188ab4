"""A look at an engine's speed: prompts, one seat generating, all seats generating.

Bounded in time, so that a slow model gets fewer repeats; medians of steps. Leaves all seats empty.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from aios.hw.core.messages import GRID_TOKENS
from aios.hw.engine.engine import Engine, ImageRejected, ImageTooLarge, Row, Tokens
from aios.hw.engine.image import image_bytes

from .candidate import TURN_PROMPT, Result

_BATCH_SEATS = 4
_WARM_TOKENS = 32
_PREFILL_S, _DECODE_S = 1.2, 0.6
"""Roughly how long prompts, and steps of each kind, are measured."""
_LEAST_STEPS, _MOST_STEPS = 3, 24


def look(engine: Engine) -> Result:
    """Prefill, alone and together, in tokens/s."""
    info = engine.info
    prompt = min(TURN_PROMPT, info.context_tokens - _MOST_STEPS * 2 - 4)
    prefill = _prefill(engine, prompt)
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


def _prefill(engine: Engine, prompt: int) -> float:
    """Tokens/s of prompts: several in a batch where they may share one, else in chunks."""
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
    """The same prompt into every seat, as an image where that is possible."""
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
    """Median seconds of a step in which so many seats generate."""
    token = _prompt(engine, 1)
    times: list[float] = []
    began_s = time.perf_counter()
    while len(times) <= _LEAST_STEPS or (
        len(times) < _MOST_STEPS and time.perf_counter() - began_s < _DECODE_S
    ):
        start_s = time.perf_counter()
        engine.decode([Row(seat, engine.length(seat), token, True) for seat in range(rows)])
        times.append(time.perf_counter() - start_s)
    return median(times[1:])  # the first builds the threads


def _clear(engine: Engine) -> None:
    for seat in range(engine.info.seats):
        engine.trim(seat, 0)
