"""Composing batches: decode rows, prompts, and the number of parts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from aios.hw.core.batch import APART_STEPS, LEVEL_STEPS, TAIL_TOKENS, BatchComposer, Waiting
from aios.hw.core.messages import Slice
from aios.hw.engine.engine import GRID_TOKENS, EngineInfo, EngineSettings, Row, Rung
from aios.hw.engine.fake import FakeEngine

ROOM, LONE_ROOM = 32, 64
COMMAND = Slice(slice=1, ops=[], rows=[], steps=99, chunk_tokens=ROOM, lone_chunk_tokens=LONE_ROOM)
Shape = dict[int, int]
"""Seat → number of tokens in its row."""


def _info(mixed: bool = True, replay: bool = False) -> EngineInfo:
    info = FakeEngine(EngineSettings(path="fake", seats=16)).info
    return msgspec.structs.replace(info, rung=Rung("test", mixed=mixed, replay=replay))


def _waiting(seat: int, pending: int, at: int = 0, streamed: bool = False) -> Waiting:
    return Waiting(100 + seat, Row(seat, at, np.zeros(pending, np.int32), True), streamed)


def _shape(composer: BatchComposer, waiting: Sequence[Waiting]) -> Shape:
    batch = composer.next_batch(COMMAND, waiting)
    seats = [row.seat for _, row in batch]
    assert seats == sorted(set(seats))
    pending = {w.row.seat: len(w.row.tokens) for w in waiting}
    for request, row in batch:
        assert request == 100 + row.seat
        assert row.wants_logits == (len(row.tokens) == pending[row.seat])
    return {row.seat: len(row.tokens) for _, row in batch}


def _parts(shape: Shape) -> int:
    """Count llama.cpp's parts: equally many tokens of consecutive seats each."""
    left, parts = dict(shape), 0
    while left:
        first = min(left)
        run = [first]
        while run[-1] + 1 in left:
            run.append(run[-1] + 1)
        taken = min(left[seat] for seat in run)
        left = {s: n - taken * (s in run) for s, n in left.items() if n > taken * (s in run)}
        parts += 1
    return parts


def test_each_generating_request_gets_a_row() -> None:
    assert _shape(BatchComposer(_info()), [_waiting(5, 1), _waiting(2, 1)]) == {2: 1, 5: 1}


def test_prompts_of_similar_length_are_computed_in_equal_steps() -> None:
    composer = BatchComposer(_info())
    lengths = {seat: 20 + seat % 3 for seat in range(8)}
    shapes = []
    while any(n > 1 for n in lengths.values()):
        shapes.append(_shape(composer, [_waiting(s, n) for s, n in lengths.items() if n]))
        for seat, taken in shapes[-1].items():
            lengths[seat] = max(1, lengths[seat] - taken)
    assert {_parts(shape) for shape in shapes} == {1}
    assert all(sum(shape.values()) <= LONE_ROOM for shape in shapes)
    assert len(shapes) <= 3 + 2


def test_more_prompts_are_computed_together_without_decode_rows() -> None:
    each = APART_STEPS * LONE_ROOM // 8 + 1
    assert 8 * each <= LEVEL_STEPS * LONE_ROOM
    prompts = [_waiting(seat, each) for seat in range(1, 9)]
    shape = _shape(BatchComposer(_info()), prompts)
    assert len(shape) == 8 and _parts(shape) == 1
    assert len(_shape(BatchComposer(_info()), [_waiting(0, 1), *prompts])) < 8
    long = [_waiting(seat, LEVEL_STEPS * LONE_ROOM // 8 + 1) for seat in range(1, 9)]
    assert len(_shape(BatchComposer(_info()), long)) < 8


def test_the_tail_of_a_prompt_is_computed_together_with_decode_rows() -> None:
    shape = _shape(
        BatchComposer(_info()), [_waiting(0, 1), _waiting(1, TAIL_TOKENS), _waiting(2, 1)]
    )
    assert shape == {0: 1, 1: 1, 2: 1}


def test_the_tail_of_a_streaming_request_does_not_wait() -> None:
    waiting = [_waiting(0, 1), _waiting(1, TAIL_TOKENS, streamed=True)]
    assert _shape(BatchComposer(_info()), waiting) == {1: TAIL_TOKENS}


def test_a_long_prompt_shares_a_batch_with_a_short_one() -> None:
    shape = _shape(BatchComposer(_info()), [_waiting(0, 2), _waiting(1, 200)])
    assert shape == {0: 2, 1: LONE_ROOM - 2}


def test_streaming_requests_do_not_wait_for_prompts() -> None:
    waiting = [_waiting(0, 1, streamed=True), _waiting(1, 20), _waiting(2, 30)]
    assert _shape(BatchComposer(_info()), waiting) == {0: 1, 1: 20, 2: ROOM - 20}


def test_decode_rows_wait_a_few_steps_at_most() -> None:
    composer = BatchComposer(_info())
    waited = [0 not in _shape(composer, [_waiting(0, 1), _waiting(1, 90)]) for _ in range(20)]
    longest = max(len(run) for run in "".join("x" if w else " " for w in waited).split())
    assert longest == APART_STEPS
    assert not all(waited)


def test_decode_rows_do_not_wait_for_long_prompts() -> None:
    waiting = [_waiting(0, 1), _waiting(1, APART_STEPS * LONE_ROOM + 1)]
    assert _shape(BatchComposer(_info()), waiting) == {0: 1, 1: LONE_ROOM}


def test_unmixed_prompts_are_cut_on_a_grid() -> None:
    composer = BatchComposer(_info(mixed=False))
    waiting = [_waiting(0, 1), _waiting(1, 200, at=GRID_TOKENS + 10)]
    shapes = [_shape(composer, waiting) for _ in range(4)]
    assert shapes == [{0: 1}, {1: GRID_TOKENS - 10}] * 2


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("mixed", [True, False])
def test_each_prompt_is_computed_once_and_in_bounded_time(seed: int, mixed: bool) -> None:
    rng = random.Random(seed)
    composer = BatchComposer(_info(mixed))
    seats = rng.sample(range(16), rng.randint(1, 16))
    streamed = {seat: rng.random() < 0.2 for seat in seats}
    left = {seat: rng.choice((1, 2, 5, 20, 22, 150)) for seat in seats}
    at, replies = dict.fromkeys(seats, 0), {seat: rng.randint(1, 9) for seat in seats}
    total = sum(left.values())
    for step in range(total + 200):
        live = [s for s in seats if replies[s]]
        if not live:
            break
        waiting = [_waiting(s, left[s], at[s], streamed[s]) for s in live]
        shape = _shape(composer, waiting)
        assert shape, f"step {step} did nothing"
        assert sum(n for n in shape.values() if n > 1) <= max(LONE_ROOM, GRID_TOKENS)
        for seat, taken in shape.items():
            at[seat] += taken
            left[seat] -= taken
            if not left[seat]:
                replies[seat] -= 1
                left[seat] = 1
    assert not any(replies.values())


def _shapes_to_the_end(composer: BatchComposer, each: Waiting) -> list[int]:
    """Return the lengths of the rows that compute a lone request's tokens."""
    shapes = []
    while left := len(each.row.tokens):
        (shape,) = _shape(composer, [each]).values()
        shapes.append(shape)
        row = each.row._replace(
            position=each.row.position + shape, tokens=np.zeros(left - shape, np.int32)
        )
        each = each._replace(row=row)
    return shapes


@pytest.mark.parametrize("mixed", [True, False])
def test_a_replay_computes_tokens_as_they_were_computed_first(mixed: bool) -> None:
    composer = BatchComposer(_info(mixed, replay=True))
    prompt = 2 * GRID_TOKENS + 10
    lost = _waiting(1, prompt + 4)._replace(prompt=prompt)
    assert _shapes_to_the_end(composer, lost) == [GRID_TOKENS, GRID_TOKENS, 10, 1, 1, 1, 1]
    parked = _waiting(1, prompt + 3 - GRID_TOKENS, at=GRID_TOKENS)._replace(prompt=prompt)
    assert _shapes_to_the_end(composer, parked) == [GRID_TOKENS, 10, 1, 1, 1]


def test_a_replay_runs_beside_decode_rows() -> None:
    composer = BatchComposer(_info(mixed=False, replay=True))
    replayed = _waiting(3, 5, at=70)._replace(prompt=70)
    assert _shape(composer, [_waiting(1, 1), replayed]) == {1: 1, 3: 1}
