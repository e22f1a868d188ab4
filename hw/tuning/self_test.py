"""The self-test of exactness: does an engine give the same logits in every situation?

Sequences run alone; then in other seats and in shared batches, started one after another, and saved
and loaded half-way; then recomputed in other chunks with one thread. All must give the same logits
to the last bit. Only then does an agent get the same tokens alone and together with others, and
after a restore or a recompute.
"""

from __future__ import annotations

import numpy as np

from aios.hw.engine.engine import Engine, Logits, Row, Tokens

_LENGTHS = (23, 90, 530, 5, 41, 12, 67, 8)
"""Prompt lengths in tokens, one sequence each."""
_CHUNK_TOKENS = 64
_GENERATED_TOKENS = 6


def is_exact(engine: Engine) -> bool:
    """Run the self-test; leaves all seats empty."""
    info = engine.info
    lengths = [min(n, info.context_tokens - _GENERATED_TOKENS - 2) for n in _LENGTHS][: info.seats]
    prompts = [_prompt(info.vocab_size, n, seed) for seed, n in enumerate(lengths)]
    alone = [_alone(engine, prompt) for prompt in prompts]
    together = _together(engine, prompts, [tokens for tokens, _ in alone])
    threads = info.threads
    engine.set_threads(1)
    recomputed = [
        _recompute(engine, tokens, len(prompt))
        for prompt, (tokens, _) in zip(prompts, alone, strict=True)
    ]
    engine.set_threads(threads)
    for seat in range(info.seats):
        engine.trim(seat, 0)
    return all(
        all(np.array_equal(a, b) for a, b in zip(solo, shared, strict=True))
        and np.array_equal(solo[-1], again)
        for (_, solo), shared, again in zip(alone, together, recomputed, strict=True)
    )


def _prompt(vocab_size: int, length: int, seed: int) -> Tokens:
    random = np.random.default_rng(seed)
    return random.integers(vocab_size // 8, vocab_size // 2, length).astype(np.int32)


def _alone(engine: Engine, prompt: Tokens) -> tuple[Tokens, list[Logits]]:
    """Run a sequence alone; return prompt and greedy tokens, and the logits of each step."""
    tokens, steps = prompt, []
    step = 2 * _CHUNK_TOKENS if engine.info.rung.mixed else _CHUNK_TOKENS
    logits = _prefill(engine, tokens, step)
    for _ in range(_GENERATED_TOKENS):
        steps.append(logits)
        tokens = np.append(tokens, np.int32(logits.argmax()))
        logits = engine.decode([Row(0, len(tokens) - 1, tokens[-1:], True)])[0].copy()
    steps.append(logits)
    return tokens, steps


def _prefill(engine: Engine, tokens: Tokens, step: int) -> Logits:
    """Compute the tokens in seat 0, ``step`` at a time; return the last one's logits."""
    engine.trim(0, 0)
    for at in range(0, len(tokens), step):
        part = tokens[at : at + step]
        last = at + step >= len(tokens)
        out = engine.decode([Row(0, at, part, last)])
    return out[0].copy()


def _recompute(engine: Engine, tokens: Tokens, prompt: int) -> Logits:
    """Compute prompt and generated tokens again as the rung does it; return the last logits."""
    if not engine.info.rung.replay:
        return _prefill(engine, tokens, _CHUNK_TOKENS)
    logits = _prefill(engine, tokens[:prompt], _CHUNK_TOKENS)
    for at in range(prompt, len(tokens)):
        logits = engine.decode([Row(0, at, tokens[at : at + 1], True)])[0]
    return logits.copy()


def _together(engine: Engine, prompts: list[Tokens], expected: list[Tokens]) -> list[list[Logits]]:
    """Run the sequences in other seats and shared batches, staggered, moved half-way."""
    info = engine.info
    count = len(prompts)
    seats = [(index + 1) % info.seats for index in range(count)]
    for seat in range(info.seats):
        engine.trim(seat, 0)
    out: list[list[Logits]] = [[] for _ in range(count)]
    turn = 0
    while any(len(steps) <= _GENERATED_TOKENS for steps in out):
        turn += 1
        live = [i for i in range(count) if i < turn and len(out[i]) <= _GENERATED_TOKENS]
        batch = _batch(engine, [(i, seats[i], len(prompts[i]), expected[i]) for i in live], turn)
        logits = engine.decode([row for _, row in batch])
        for index, row in batch:
            if row.wants_logits:
                out[index].append(logits[row.seat].copy())
        if turn == 4 and info.restorable:
            _move_all(engine, seats)
    return out


def _batch(
    engine: Engine, live: list[tuple[int, int, int, Tokens]], turn: int
) -> list[tuple[int, Row]]:
    """Compose a batch as the engine's rung allows, from (index, seat, prompt length, tokens)."""
    decode: list[tuple[int, Row]] = []
    prefill: list[tuple[int, Row]] = []
    for index, seat, prompt, tokens in live:
        at = engine.length(seat)
        if at < prompt:
            end = min(prompt, at + _CHUNK_TOKENS)
            prefill.append((index, Row(seat, at, tokens[at:end], end == prompt)))
        else:
            decode.append((index, Row(seat, at, tokens[at : at + 1], True)))
    if engine.info.rung.width == 1:
        return [*decode, *prefill][turn % (len(decode) + len(prefill)) :][:1]
    if engine.info.rung.mixed:
        return sorted([*decode, *prefill[:1]], key=lambda item: item[1].seat)
    chosen = decode if decode and (turn % 2 or not prefill) else prefill[:1]
    return sorted(chosen, key=lambda item: item[1].seat)


def _move_all(engine: Engine, seats: list[int]) -> None:
    """Save every sequence and load each into its neighbour's seat; updates ``seats``."""
    info = engine.info
    saved = []
    for seat in seats:
        length = engine.length(seat)
        room = bytearray(info.image_fixed_bytes + length * info.image_token_bytes)
        size = engine.save(seat, memoryview(room)) if length else 0
        saved.append((memoryview(room)[:size], length))
    seats[:] = seats[1:] + seats[:1]
    for seat, (image, length) in zip(seats, saved, strict=True):
        engine.trim(seat, 0)
        if length:
            engine.load(seat, image, length)
