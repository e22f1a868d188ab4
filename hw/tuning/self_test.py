"""The self-test of exactness: does an engine give the same logits in every situation?

Sequences run alone, as the rung computes them. They must get the same logits, to the last bit, when
they are computed again with one thread and, unless the rung replays, in other chunks; in batches of
any number of rows; started one after another in other seats, and moved half-way; and when they
continue from a part of what a seat or an image holds. Only then does an agent get the same tokens
alone and together with others, and after a restore or a recompute.

Kernels for few and for many rows may differ in one number of a million, so the test runs some
hundred rows of each kind. It stops at the first difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from aios.hw.engine.engine import (
    GRID_TOKENS,
    Engine,
    ImageRejected,
    ImageTooLarge,
    Logits,
    Row,
    Tokens,
)
from aios.hw.engine.image import image_bytes

_LENGTHS = (23, 90, 5, 41, 12, 67, 8)
_LONG = 530
"""Prompt lengths in tokens, one sequence each. The last one exceeds a sliding window, too."""
_GENERATED = 24
_FEW_ROWS = 5
_FEW_ROWS_TOKENS = 480
"""Length of the part of a prompt that is computed a few rows at a time."""


class _Sequence(NamedTuple):
    """Tokens, prompt and generated, and the logits after the prompt and after each one more."""

    tokens: Tokens
    prompt: int
    logits: list[Logits]


def is_exact(engine: Engine) -> bool:
    """Run the self-test; leaves all seats empty."""
    sequences: list[_Sequence] = []
    try:
        for prompt in _prompts(engine):
            sequences.append(_alone(engine, prompt))
            if not _again(engine, sequences[-1]):
                return False
        checks = (_parts, _chunks, _rows, _together)
        return all(check(engine, sequences) for check in checks)
    except (ImageRejected, ImageTooLarge):
        return False
    finally:
        _clear(engine)


def _prompts(engine: Engine) -> Iterator[Tokens]:
    info = engine.info
    longest = info.context_tokens - _GENERATED - 2
    long = max(_LONG, (info.image_window or 0) + GRID_TOKENS + 6)
    for seed, length in enumerate([*_LENGTHS[: info.seats - 1], long]):
        random = np.random.default_rng(seed)
        tokens = random.integers(info.vocab_size // 8, info.vocab_size // 2, min(length, longest))
        yield tokens.astype(np.int32)


def _alone(engine: Engine, prompt: Tokens) -> _Sequence:
    """Run a sequence alone; it continues with its most likely tokens."""
    engine.trim(0, 0)
    tokens = prompt
    logits = [_continue(engine, 0, prompt, len(prompt))]
    for _ in range(_GENERATED):
        tokens = np.append(tokens, np.int32(logits[-1].argmax()))
        logits.append(_continue(engine, 0, tokens, len(prompt)))
    return _Sequence(tokens, len(prompt), logits)


def _continue(engine: Engine, seat: int, tokens: Tokens, prompt: int) -> Logits:
    """Compute what the seat lacks of the tokens as the rung does it; return the last logits."""
    at = engine.length(seat)
    while at < len(tokens):
        end = min(len(tokens), at - at % GRID_TOKENS + GRID_TOKENS)
        if engine.info.rung.replay:
            end = min(end, prompt) if at < prompt else at + 1
        out = engine.decode([Row(seat, at, tokens[at:end], int(end == len(tokens)))])
        at = end
    return out[seat].copy()


def _again(engine: Engine, sequence: _Sequence) -> bool:
    """Compute a sequence again from its tokens, with one thread."""
    threads = engine.info.threads
    engine.set_threads(1)
    engine.trim(0, 0)
    tokens, prompt, logits = sequence
    count = prompt + 4 if engine.info.rung.replay else len(tokens)
    same = np.array_equal(_continue(engine, 0, tokens[:count], prompt), logits[count - prompt])
    engine.set_threads(threads)
    return same


def _chunks(engine: Engine, sequences: list[_Sequence]) -> bool:
    """Compute a prompt a few rows at a time, and in large chunks if the rung may do that."""
    rung = engine.info.rung
    if rung.replay:
        return True
    tokens = sequences[-1].tokens[:_FEW_ROWS_TOKENS]
    steps = (GRID_TOKENS, _FEW_ROWS, *([3 * GRID_TOKENS] if rung.mixed else []))
    images = [_in_steps(engine, tokens, step) for step in steps]
    return all(image == images[0] for image in images)


def _in_steps(engine: Engine, tokens: Tokens, step: int) -> bytes:
    """Compute the tokens ``step`` at a time; return logits and, if it can be saved, the state."""
    engine.trim(0, 0)
    for at in range(0, len(tokens), step):
        part = tokens[at : at + step]
        out = engine.decode([Row(0, at, part, int(at + step >= len(tokens)))])
    return out[0].tobytes() + (bytes(_saved(engine, 0)) if engine.info.restorable else b"")


def _rows(engine: Engine, sequences: list[_Sequence]) -> bool:
    """Generate short sequences in batches of all seats, then of fewer and fewer."""
    _clear(engine)
    short = [*sequences[:-1], sequences[0]]
    for seat, (tokens, prompt, _) in enumerate(short):
        _continue(engine, seat, tokens[:prompt], prompt)
    width = engine.info.rung.width or len(short)
    for step in range(_GENERATED):
        live = [s for s in range(len(short)) if step < _GENERATED - 2 * s]
        for first in range(0, len(live), width):
            batch = live[first : first + width]
            if not _same(engine, [_next_row(engine, short[s], s) for s in batch], short):
                return False
    return True


def _next_row(engine: Engine, sequence: _Sequence, seat: int) -> Row:
    at = engine.length(seat)
    return Row(seat, at, sequence.tokens[at : at + 1], 1)


def _same(engine: Engine, rows: list[Row], by_seat: list[_Sequence]) -> bool:
    """Run a batch; return True if all logits are those of the sequences alone."""
    out = engine.decode(rows)
    for row in rows:
        at = row.position + len(row.tokens) - by_seat[row.seat].prompt
        if row.wants_logits and not np.array_equal(out[row.seat], by_seat[row.seat].logits[at]):
            return False
    return True


def _together(engine: Engine, sequences: list[_Sequence]) -> bool:
    """Run the sequences in other seats and shared batches, one started after another; move all
    half-way."""
    _clear(engine)
    by_seat = [*sequences[-1:], *sequences[:-1]]
    turn = 0
    while True:
        turn += 1
        unfinished = [s for s, each in enumerate(by_seat) if engine.length(s) < len(each.tokens)]
        if not unfinished:
            return True
        live = [s for s in unfinished if (s - 1) % len(by_seat) < turn]
        batch = _batch(engine, {s: by_seat[s] for s in live}, turn) if live else []
        if batch and not _same(engine, batch, by_seat):
            return False
        if turn in (4, 20) and engine.info.restorable:
            by_seat = _move_all(engine, by_seat)


def _batch(engine: Engine, live: dict[int, _Sequence], turn: int) -> list[Row]:
    """Compose a batch as the engine's rung allows."""
    rung = engine.info.rung
    decode: list[Row] = []
    prefill: list[Row] = []
    for seat, (tokens, prompt, _) in live.items():
        at = engine.length(seat)
        if at < prompt:
            end = min(prompt, at + GRID_TOKENS)
            prefill.append(Row(seat, at, tokens[at:end], int(end == prompt)))
        else:
            decode.append(Row(seat, at, tokens[at : at + 1], 1))
    if rung.mixed and not rung.replay:
        return sorted([*decode, *prefill[:1]], key=lambda row: row.seat)
    if prefill and (turn % 2 or not decode):
        return prefill[:1]
    first = turn % len(decode)
    return sorted((decode[first:] + decode[:first])[: rung.width], key=lambda row: row.seat)


def _move_all(engine: Engine, by_seat: list[_Sequence]) -> list[_Sequence]:
    """Save every sequence and load each into its neighbour's seat; return the new order."""
    saved = [(_saved(engine, s) if engine.length(s) else None, engine.length(s))
             for s in range(len(by_seat))]  # fmt: skip
    for seat, (image, length) in enumerate([*saved[-1:], *saved[:-1]]):
        engine.trim(seat, 0)
        if image is not None:
            engine.load(seat, image, length)
    return [*by_seat[-1:], *by_seat[:-1]]


def _parts(engine: Engine, sequences: list[_Sequence]) -> bool:
    """Continue from parts of the longest sequence, in the seat that computed it and, from its
    image, in another."""
    tokens, prompt, logits = sequences[-1]
    if engine.length(0) < len(tokens):
        _continue(engine, 0, tokens, prompt)
    image = _saved(engine, 0) if engine.info.restorable else None
    last = engine.info.seats - 1
    grid = prompt // GRID_TOKENS * GRID_TOKENS
    for cut in (n for n in (grid, grid - GRID_TOKENS) if n > 0):
        for seat in (0, last):
            if seat and image is not None:
                engine.load(seat, image, len(tokens))
            if engine.trim(seat, cut) not in (0, cut):
                return False
            if not engine.length(seat):
                continue  # there was no image, or the model has to compute all tokens again
            if not np.array_equal(_continue(engine, seat, tokens[: prompt + 1], prompt), logits[1]):
                return False
    return True


def _saved(engine: Engine, seat: int) -> memoryview:
    room = memoryview(bytearray(image_bytes(engine.info, engine.length(seat))))
    return room[: engine.save(seat, room)]


def _clear(engine: Engine) -> None:
    for seat in range(engine.info.seats):
        engine.trim(seat, 0)
