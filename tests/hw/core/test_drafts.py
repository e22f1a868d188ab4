"""Drafts: what is proposed, how much of it, and that it changes no token."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from aios.hw.core.batch import BatchComposer, waiting
from aios.hw.core.drafts import Drafter, Extra, Past, RowCost, lengthened
from aios.hw.core.generation import Generation
from aios.hw.core.messages import Slice, StepRow
from aios.hw.engine.engine import Constraint, EngineSettings, Tokens
from aios.hw.engine.fake import FakeEngine
from aios.hw.engine.sampling import SamplingParams

CHEAP, DEAR = RowCost(0.010, 0.0005), RowCost(0.002, 0.010)
"""Costs of a part and a row: memory-bound, and compute-bound."""
COMMAND = Slice(slice=1, ops=[], rows=[], steps=9, chunk_tokens=64, lone_chunk_tokens=64)
NO_PAST: Tokens = np.zeros(0, np.int32)


def _tokens(text: str) -> Tokens:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def _proposed(text: str, limit: int = 6, past: Tokens = NO_PAST) -> str:
    return bytes(Drafter().propose(_tokens(text), past, limit).tokens.astype(np.uint8)).decode()


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ("the cat and the c", "at and"),
        ("I said: the c", ""),
        ("xab1 yab2 zab", "2 zab2"),  # of equally long matches the last
        ("yab1 xab2 yab", "1 xab2"),  # a longer match before a later one
        ("abcdefgh", ""),
        ("aaa", "aaaaaa"),
        ("xyabcabca", "bcabca"),  # a text that goes round in a ring
        ("", ""),
        ("a", ""),
    ],
)
def test_a_draft_is_what_followed_the_longest_match(text: str, draft: str) -> None:
    assert _proposed(text) == draft


def test_a_draft_comes_from_earlier_outputs_of_the_account_alone() -> None:
    past = Past()
    past.add(1, _tokens("one red apple"))
    past.add(1, _tokens("two green"))
    assert _proposed("a red", past=past.of(1)) == " apple"
    assert _proposed("two gr", past=past.of(1)) == "een"
    assert _proposed("a red", past=past.of(2)) == ""
    assert _proposed("apple", past=past.of(1)) == ""  # what follows there is another output


def test_the_past_is_bounded() -> None:
    past = Past()
    for account in range(100):
        for _ in range(3):
            past.add(account, np.arange(5000, dtype=np.int32))
    assert len(past.of(99)) == 8192
    assert not len(past.of(0)) and len(past._outputs) == 64


def test_a_drafter_pauses_after_misses_and_ever_longer() -> None:
    drafter, text = Drafter(), _tokens("abababab")
    gaps, gap = list[int](), 0
    while len(gaps) < 8:
        draft = drafter.propose(text, NO_PAST, 4)
        if len(draft.tokens):
            drafter.verified(len(draft.tokens), 0)
            gaps.append(gap)
            gap = 0
        gap += 1
    assert gaps[1:] == [2, 4, 8, 16, 32, 64, 65]


def test_the_chance_follows_what_became_of_earlier_drafts() -> None:
    drafter, text = Drafter(), _tokens("ab" * 20)
    chances = []
    for accepted in (4, 4, 4, 1, 1, 1):
        draft = drafter.propose(text, NO_PAST, 4)
        chances.append(draft.chance)
        drafter.verified(4, accepted)
    assert chances[0] < chances[2] > chances[-1]
    assert all(0 < chance < 1 for chance in chances)


def test_drafts_are_as_long_as_they_pay() -> None:
    sure, likely, unlikely = Extra(0, 15, 0.98), Extra(0, 15, 0.8), Extra(0, 15, 0.1)
    assert lengthened([likely], CHEAP, 2000) > [4]
    assert lengthened([sure], CHEAP, 2000) > lengthened([likely], CHEAP, 2000)
    assert lengthened([unlikely], DEAR, 2000) == [0]
    assert lengthened([Extra(0, 0, 0.0)] * 7 + [likely], DEAR, 2000) == [0] * 8
    alike = lengthened([sure] * 4, CHEAP, 2000)
    assert len(set(alike)) == 1 and alike[0] > 0
    assert sum(lengthened([sure] * 4, CHEAP, 10)) <= 10
    assert lengthened([Extra(3, 0, 0.0)], DEAR, 2000) == [3]  # forced tokens always pay alone
    assert lengthened([], CHEAP, 10) == []


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("params", [{}, {"repeat_penalty": 1.2}, {"stop": ("ab", "e t")}])
@pytest.mark.parametrize("seed", range(3))
def test_drafts_change_steps_and_no_token(
    temperature: float, params: dict[str, object], seed: int
) -> None:
    wanted = SamplingParams(max_tokens=300, seed=seed, temperature=temperature, **params)  # type: ignore[arg-type]
    plain, steps = _generated("fake:words=2,end=400", wanted)
    drafted, fewer = _generated("fake:words=2,end=400,drafts=15", wanted)
    assert [row[:4] for row in map(msgspec.structs.astuple, drafted)] == [
        row[:4] for row in map(msgspec.structs.astuple, plain)
    ]
    assert sum(row.drafted for row in drafted) == steps - fewer
    assert not any(row.drafted for row in plain)
    if temperature == 0.0 and steps > 100 and not params:
        assert fewer < steps / 2


SCHEMA = json.dumps({
    "type": "object", "required": ["name", "kind", "count"], "additionalProperties": False,
    "properties": {"name": {"type": "string"}, "kind": {"enum": ["alpha", "beta"]},
                   "count": {"type": "integer"}},
})  # fmt: skip


@pytest.mark.parametrize("max_tokens", [1, 5, 12, 13, 14, 300])
@pytest.mark.parametrize("seed", range(4))
def test_forced_tokens_take_no_step(max_tokens: int, seed: int) -> None:
    constraint = Constraint("json_schema", SCHEMA)
    wanted = SamplingParams(
        max_tokens=max_tokens, seed=seed, temperature=1.0, constraint=constraint
    )
    plain, steps = _generated("fake", wanted)
    drafted, fewer = _generated("fake:drafts=15", wanted)
    assert drafted == plain and fewer <= steps
    text = "".join(row.text for row in plain)
    if max_tokens == 300:
        assert json.loads(text).keys() == {"name", "kind", "count"}
        fixed = len('"name":"","kind":"","count":')
        assert sum(not row.drafted for row in plain) < len(text) - fixed
        assert fewer < steps
    assert sum(row.token >= 0 for row in plain) <= max_tokens


def _generated(model: str, params: SamplingParams) -> tuple[list[StepRow], int]:
    """Generate as the core does; return the rows and the number of steps."""
    engine = FakeEngine(EngineSettings(path=model, seats=1))
    prompt = engine.tokenize_text("tell me about the sea")
    generation = Generation(engine, prompt, len(prompt), params, False, past=Past())
    composer, rows, steps = BatchComposer(engine.info), list[StepRow](), 0
    while not rows or not rows[-1].finish:
        limit = engine.info.draft_tokens
        wanted = waiting(1, generation, 0, engine.length(0), limit)
        [(_, row)] = composer.next_batch(COMMAND, [wanted])
        logits, steps = engine.decode([row]), steps + 1
        if row.wants_logits:
            tried = row.tokens[len(row.tokens) - row.wants_logits + 1 :]
            drawn, right = generation.draw(np.atleast_2d(logits[0]), tried, 1)
            rows += drawn
            engine.trim(0, right)
    return rows, steps
