"""Which rows make the next batch: who generates, and how much of whose prompt is computed with it.

llama.cpp computes a batch in parts. With a cache of its own for each seat, a part holds equally
many tokens of seats whose numbers follow each other, and reads all weights once. So few parts are
fast, and prompts that nobody reads a stream of are cut to equal lengths: a part for all of them
instead of one for each. What a prompt then lacks is computed token by token beside those that
generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aios.hw.engine.engine import GRID_TOKENS, EngineInfo, Row

from .messages import Slice

APART_STEPS = 4
"""Most steps in a row, and most such chunks of prompt, that others wait for a prompt to be done."""
LEVEL_STEPS = 8
"""Most such chunks that prompts are done together, in equal steps, while nobody generates."""
TAIL_TOKENS = 4
"""So few last tokens of a prompt are computed one in each step of those that generate."""


class Waiting(NamedTuple):
    """A request and all the tokens that its seat lacks, as one row."""

    request: int
    row: Row
    streamed: bool = False


Batch = list[tuple[int, Row]]
"""Requests and their rows, in the order of seats."""


class BatchComposer:
    """Composes the batches of one core; remembers for how long it has let some wait."""

    def __init__(self, info: EngineInfo) -> None:
        self._mixes, self._most_rows = info.rung.mixed, info.batch_tokens
        self._turn = self._apart = 0

    def next_batch(self, command: Slice, waiting: Sequence[Waiting]) -> Batch:
        """The next batch of a slice; ``waiting`` in the slice's order."""
        generating = [w for w in waiting if len(w.row.tokens) == 1]
        prompts = [w for w in waiting if len(w.row.tokens) > 1]
        if not self._mixes and prompts:
            return self._in_turns(generating, prompts)
        if generating:
            generating += [w for w in prompts if _is_tail(w)]
            prompts = [w for w in prompts if not _is_tail(w)]
        rows = self._mixed(command, generating, prompts) if prompts else []
        if not prompts or not self._apart:
            rows += [_cut(w, 1) for w in generating]
        if not prompts:
            self._apart = 0
        return _by_seat(rows)

    def _mixed(
        self, command: Slice, generating: Sequence[Waiting], prompts: Sequence[Waiting]
    ) -> Batch:
        """Rows of prompts. They go beside those that generate; or, where it takes few steps and
        nobody reads a stream, before them, so that all generate in full batches afterwards."""
        reads = any(w.streamed for w in generating)
        room = command.chunk_tokens if reads else command.lone_chunk_tokens
        most = room * (APART_STEPS if generating else LEVEL_STEPS)
        few = sum(len(w.row.tokens) for w in prompts) <= most and not reads
        self._apart = self._apart + 1 if generating and few and self._apart < APART_STEPS else 0
        room = min(room, self._most_rows - (0 if self._apart else len(generating)))
        if few and not any(w.streamed for w in prompts):
            return _levelled(prompts, room)
        return _in_order(prompts, room)

    def _in_turns(self, generating: Sequence[Waiting], prompts: Sequence[Waiting]) -> Batch:
        """Where they may not be mixed: a step of those that generate, a chunk of one prompt."""
        self._turn ^= 1
        if generating and self._turn:
            return _by_seat([_cut(w, 1) for w in generating])
        return [_aligned_chunk(prompts[0])]


def _by_seat(rows: Batch) -> Batch:
    return sorted(rows, key=lambda each: each[1].seat)


def _is_tail(each: Waiting) -> bool:
    return len(each.row.tokens) <= TAIL_TOKENS and not each.streamed


def _in_order(prompts: Sequence[Waiting], room: int) -> Batch:
    """As much of the prompts as there is room for, one after the other."""
    rows = []
    for each in prompts:
        if room <= 0:
            break
        rows.append(_cut(each, room))
        room -= len(each.row.tokens)
    return rows


def _levelled(prompts: Sequence[Waiting], room: int) -> Batch:
    """The same number of tokens of each, so that the shortest is done in few equal steps. Half the
    room or more that is left goes to the first that lack more: it is worth a part of its own."""
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
    """The next chunk on a fixed grid of positions, so that it is the same however we got here."""
    return _cut(each, GRID_TOKENS - each.row.position % GRID_TOKENS)


def _cut(each: Waiting, most: int) -> tuple[int, Row]:
    row = each.row
    if len(row.tokens) > most:
        row = Row(row.seat, row.position, row.tokens[:most], False)
    return each.request, row
