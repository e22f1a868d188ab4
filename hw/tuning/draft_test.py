"""The self-test of drafts: do rows of several tokens give the same logits as one token at a time?

Run after self_test.py has found the settings exact. A sequence is continued one token per step,
then by rows of each length, alone and beside other seats, with drafts that are wrong and dropped.
All logits must be equal to the last bit.
"""

from __future__ import annotations

import numpy as np

from aios.hw.engine.engine import GRID_TOKENS, Engine, Logits, Row, Tokens

DRAFT_TOKENS = 15
"""Limit on the length of a draft in tokens."""
_LENGTHS = (2, 3, 4, 5, 8, DRAFT_TOKENS + 1)
"""Lengths of rows; one of them crosses each border at which kernels are known to switch."""
_PROMPT_TOKENS = 70
_NEIGHBOURS = 3


def draft_limit(engine: Engine) -> int:
    """Return how long drafts may be, in tokens: DRAFT_TOKENS, or 0. Leaves all seats empty."""
    info = engine.info
    if info.rung.width or info.context_tokens <= _PROMPT_TOKENS + sum(_LENGTHS):
        return 0  # a limit on seats is there because more rows change logits
    random = np.random.default_rng(7)
    prompt = random.integers(info.vocab_size // 8, info.vocab_size // 2, _PROMPT_TOKENS)
    tokens, steps = _one_by_one(engine, prompt.astype(np.int32), sum(_LENGTHS))
    beside = min(info.seats, 1 + _NEIGHBOURS)
    exact = all(_in_rows(engine, tokens, steps, seats) for seats in {1, beside})
    for seat in range(info.seats):
        engine.trim(seat, 0)
    return DRAFT_TOKENS if exact else 0


def _one_by_one(engine: Engine, prompt: Tokens, count: int) -> tuple[Tokens, list[Logits]]:
    """Continue the prompt greedily; return all tokens, and the logits after each new one."""
    logits, tokens, steps = _prefill(engine, prompt, 0), prompt, list[Logits]()
    for _ in range(count):
        tokens = np.append(tokens, np.int32(logits.argmax()))
        logits = engine.decode([Row(0, len(tokens) - 1, tokens[-1:], 1)])[0].copy()
        steps.append(logits)
    return tokens, steps


def _prefill(engine: Engine, prompt: Tokens, seat: int) -> Logits:
    """Compute the prompt in chunks; return the last token's logits."""
    engine.trim(seat, 0)
    for at in range(0, len(prompt), GRID_TOKENS):
        out = engine.decode([Row(seat, at, prompt[at : at + GRID_TOKENS], 1)])
    return out[seat].copy()


def _in_rows(engine: Engine, tokens: Tokens, steps: list[Logits], seats: int) -> bool:
    """Continue the prompt by rows of all lengths in each of the seats; compare the last seat's."""
    start = len(tokens) - len(steps)
    for seat in range(seats):
        _prefill(engine, tokens[:start], seat)
    at = start
    for length in _LENGTHS:
        right = tokens[at : at + length]
        wrong = np.append(right[:1], right[1:] ^ 1)
        for row in (wrong, right):
            got = engine.decode([Row(seat, at, row, length) for seat in range(seats)])[seats - 1]
            keep = 1 if row is wrong else length
            expected = steps[at - start : at - start + keep]
            if not all(map(np.array_equal, np.atleast_2d(got)[:keep], expected)):
                return False
            if row is wrong and any(engine.trim(seat, at) != at for seat in range(seats)):
                return False  # dropping a draft would empty the seat
        at += length
    return True
