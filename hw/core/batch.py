"""Composing the next batch: which requests generate, and how much of each prompt is computed.

llama.cpp computes a batch in parts. With split KV, a part holds equally many tokens of consecutive
seats and reads all weights once, so few parts are fast. Prompts of requests that do not stream are
therefore cut to equal lengths, which takes one part for all of them instead of one for each. The
last few tokens of a prompt are computed one per step, together with the decode rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aios.hw.engine.engine import GRID_TOKENS, EngineInfo, Row

from .drafts import Draft, Extra, RowCost, lengthened
from .generation import Generation
from .messages import Slice

APART_STEPS = 4
"""Limit, in steps and in chunks of prompt, on how long decode rows wait for prompts."""
LEVEL_STEPS = 8
"""Limit, in chunks, on prompts computed together in equal steps while no request generates."""
TAIL_TOKENS = 4
"""Length of a prompt's tail that is computed one token per step, together with decode rows."""


class Waiting(NamedTuple):
    """A request, and all tokens that its seat lacks as one row, with a draft after them."""

    request: int
    row: Row
    streamed: bool = False
    prompt: int = 0
    """Tokens of the prompt; those after it were generated."""
    forced: int = 0
    """Tokens before the draft, the first not counted, that were appended without being drawn."""
    drafts: int = 0
    """The last tokens of the row are a draft, each right with ``chance``."""
    chance: float = 0.0

    @property
    def pending(self) -> int:
        """The number of tokens before the draft."""
        return len(self.row.tokens) - self.drafts

    @property
    def generates(self) -> bool:
        """It has a token to continue from, and not more of a prompt."""
        return self.pending - self.forced == 1


def waiting(
    request: int, generation: Generation, seat: int, length: int, draft_tokens: int
) -> Waiting:
    """Describe what a generation lacks whose seat holds ``length`` tokens.

    ``draft_tokens``: limit on the tokens that follow the first of a decode row.
    """
    pending, draft, forced = generation.pending(length), Draft(), 0
    if len(pending) <= max(1, generation.fresh):
        forced = len(pending) - 1
        draft = generation.draft(draft_tokens - forced)
    tokens = np.concatenate([pending, draft.tokens]) if len(draft.tokens) else pending
    row = Row(seat, length, tokens, 1 + len(draft.tokens))
    return Waiting(request, row, generation.streamed, generation.prompt, forced,
                   len(draft.tokens), draft.chance)  # fmt: skip


Batch = list[tuple[int, Row]]
"""Requests and their rows, sorted by seat."""


class BatchComposer:
    """Composes the batches of one core; counts the steps for which decode rows have waited."""

    def __init__(self, info: EngineInfo) -> None:
        self._rung, self._batch_tokens = info.rung, info.batch_tokens
        self._cost, self._draft_tokens = RowCost.of(info), info.draft_tokens
        self._turn = self._apart = 0

    def next_batch(self, command: Slice, waiting: Sequence[Waiting]) -> Batch:
        """Compose the next batch of a slice; ``waiting`` is in the slice's order."""
        if self._rung.replay:
            waiting = [_as_first_computed(w) for w in waiting]
        generating = [w for w in waiting if w.generates]
        prompts = [w for w in waiting if not w.generates]
        if not prompts:
            self._apart = 0
            return _by_seat(self._decode_rows(generating))
        if self._rung.replay or not self._rung.mixed:
            return self._in_turns(generating, prompts)
        if generating:
            generating += [w for w in prompts if _is_tail(w)]
            prompts = [w for w in prompts if not _is_tail(w)]
        rows = self._prompt_rows(command, generating, prompts) if prompts else []
        if not prompts or not self._apart:
            rows += [_cut(w, 1) for w in generating]
        return _by_seat(rows)

    def _decode_rows(self, generating: Sequence[Waiting]) -> Batch:
        """Give each request a row, with as much of its draft as is worth its time."""
        if not any(w.forced or w.drafts for w in generating):
            return [_cut(w, 1) for w in generating]
        most = self._draft_tokens
        extras = [
            Extra(min(w.forced, most), min(w.drafts, max(0, most - w.forced)), w.chance)
            for w in generating
        ]
        room = self._batch_tokens - len(generating)
        chosen = lengthened(extras, self._cost, room)
        return [_cut(w, 1 + extra) for w, extra in zip(generating, chosen, strict=True)]

    def _prompt_rows(
        self, command: Slice, generating: Sequence[Waiting], prompts: Sequence[Waiting]
    ) -> Batch:
        """Choose rows of prompts, to run together with the decode rows.

        Prompts go first if they take few steps and no request that generates streams; all requests
        then generate in full batches.
        """
        streams = any(w.streamed for w in generating)
        room = command.chunk_tokens if streams else command.lone_chunk_tokens
        limit = room * (APART_STEPS if generating else LEVEL_STEPS)
        few = sum(len(w.row.tokens) for w in prompts) <= limit and not streams
        self._apart = self._apart + 1 if generating and few and self._apart < APART_STEPS else 0
        room = min(room, self._batch_tokens - (0 if self._apart else len(generating)))
        if few and not any(w.streamed for w in prompts):
            return _levelled(prompts, room)
        return _in_order(prompts, room)

    def _in_turns(self, generating: Sequence[Waiting], prompts: Sequence[Waiting]) -> Batch:
        """Alternate the decode rows with a chunk of one prompt, where they may not mix."""
        self._turn ^= 1
        if generating and self._turn:
            return _by_seat([_cut(w, 1) for w in generating])
        return [_aligned_chunk(prompts[0])]


def _by_seat(rows: Batch) -> Batch:
    return sorted(rows, key=lambda each: each[1].seat)


def _is_tail(each: Waiting) -> bool:
    return len(each.row.tokens) <= TAIL_TOKENS and not each.streamed


def _in_order(prompts: Sequence[Waiting], room: int) -> Batch:
    """Take as much of the prompts as there is room for, one after the other."""
    rows = []
    for each in prompts:
        if room <= 0:
            break
        rows.append(_cut(each, room))
        room -= len(each.row.tokens)
    return rows


def _levelled(prompts: Sequence[Waiting], room: int) -> Batch:
    """Take equally many tokens of each prompt, so that the shortest is done in few equal steps.

    If half the room or more is left, it goes to the first prompts that need it, as another part.
    """
    chosen = prompts[:room]
    even, shortest = room // len(chosen), min(len(w.row.tokens) for w in chosen)
    level = -(-shortest // -(-shortest // even))
    spare = room - level * len(chosen)
    rows = []
    for each in chosen:
        more = len(each.row.tokens) - level
        more = min(more, spare) if 2 * spare >= room and more > TAIL_TOKENS else 0
        spare -= more
        rows.append(_cut(each, level + more))
    return rows


def _aligned_chunk(each: Waiting) -> tuple[int, Row]:
    """Take a chunk that ends on a fixed grid, so chunks do not depend on how prefill started."""
    return _cut(each, GRID_TOKENS - each.row.position % GRID_TOKENS)


def _as_first_computed(each: Waiting) -> Waiting:
    """Cut a row at the prompt's end; after it, to one token, unless longer rows are exact."""
    left = each.prompt - each.row.position
    if left <= 0 and each.generates:
        return each
    _, row = _cut(each, max(1, left))
    return each._replace(row=row, forced=0, drafts=0)


def _cut(each: Waiting, limit: int) -> tuple[int, Row]:
    """Take the first ``limit`` tokens, and of the wanted logits those that are among them."""
    row, tokens = each.row, each.row.tokens[:limit]
    wanted = max(0, row.wants_logits - len(row.tokens) + len(tokens))
    return each.request, Row(row.seat, row.position, tokens, wanted)
