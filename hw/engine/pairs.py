"""Batches of pairs: decode calls whose parts never have a single row.

llama.cpp has kernels for one row that give other bits than those for two rows and more. It computes
a batch in parts of consecutive seats. A generated token whose neighbouring seats have no row
therefore gets a spare token beside it, which is removed afterwards; a prompt has a call of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .engine import Row


class Call(NamedTuple):
    """Rows of one decode call, and the seats whose row ends with a spare token."""

    rows: list[Row]
    spare: frozenset[int]


def in_pairs(rows: Sequence[Row], part_tokens: int) -> list[Call]:
    """Split a batch into calls of which every part has two rows or more, and two logits or none.

    Parts have at most ``part_tokens`` tokens.
    """
    calls = [Call([part], frozenset()) for row in rows if len(row.tokens) > 1
             for part in _parts(row, part_tokens)]  # fmt: skip
    single = [row for row in rows if len(row.tokens) == 1]
    seats = {row.seat for row in single}
    lonely = frozenset(seat for seat in seats if not {seat - 1, seat + 1} & seats)
    if single:
        padded = [_with_spare(row) if row.seat in lonely else row for row in single]
        calls.append(Call(padded, lonely))
    return calls


def _parts(row: Row, most: int) -> list[Row]:
    """Cut a long row; no part has one token."""
    parts: list[Row] = []
    left = row
    while len(left.tokens) > most:
        size = most - (len(left.tokens) == most + 1)
        parts.append(Row(row.seat, left.position, left.tokens[:size], 0))
        left = left._replace(position=left.position + size, tokens=left.tokens[size:])
    return [*parts, left]


def _with_spare(row: Row) -> Row:
    return row._replace(tokens=np.concatenate([row.tokens, row.tokens]))
