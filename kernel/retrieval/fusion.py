"""Reciprocal rank fusion: one ranking from several. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

_DAMPING = 60
"""Ranks. The larger, the less the first ranks count more than the next."""

K = TypeVar("K", bound=Hashable)


def fuse(rankings: Sequence[Sequence[K]]) -> list[tuple[K, float]]:
    """Return keys with scores, best first: each ranking adds 1 / (60 + rank) to a key's score."""
    scores: dict[K, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (_DAMPING + rank)
    return sorted(scores.items(), key=lambda item: -item[1])
