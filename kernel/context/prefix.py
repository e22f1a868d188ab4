"""The prefix index: finds the KV that begins with given tokens.

Sequences are hashed in blocks, each block's key chained to the one before, so a lookup costs the
length of the prompt, however many sequences there are. Keys only find candidates; the tokens
themselves decide, so a hash collision can never mix two contexts.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import numpy as np
import xxhash

BLOCK = 16
"""Tokens of a block; shorter common prefixes are not worth sharing."""
_MAX_CANDIDATES = 16
"""Limit on holders with the same key that are compared token by token."""


class Holder(Protocol):
    """A place that holds the KV of the first tokens of ``tokens``."""

    tokens: array[int]
    keys: list[int]

    @property
    def sharable(self) -> int:
        """Number of tokens whose KV others may take."""


H = TypeVar("H", bound=Holder)


class PrefixIndex(Generic[H]):
    """Holders by the keys of their blocks."""

    def __init__(self) -> None:
        self._holders: dict[int, dict[H, None]] = {}

    def update(self, holder: H) -> None:
        """Note that a holder's tokens or their number have changed; without any it is removed."""
        blocks = holder.sharable // BLOCK
        while len(holder.keys) > blocks:
            self._drop(holder.keys.pop(), holder)
        before = holder.keys[-1] if holder.keys else 0
        for block in range(len(holder.keys), blocks):
            before = _key(before, holder.tokens, block)
            holder.keys.append(before)
            self._holders.setdefault(before, {})[holder] = None

    def remove(self, holder: H) -> None:
        """Forget a holder."""
        for key in holder.keys:
            self._drop(key, holder)
        holder.keys = []

    def find(
        self, tokens: array[int], most: int, prefer: Callable[[H], float]
    ) -> tuple[H | None, int]:
        """Return the holder with the longest common prefix, and its length up to ``most``.

        Among equals, the one with the least ``prefer``; (None, 0) below one block.
        """
        key, found = 0, None
        for block in range(most // BLOCK):
            key = _key(key, tokens, block)
            holders = self._holders.get(key)
            if not holders:
                break
            found = holders
        best: H | None = None
        longest = 0
        for holder in list(found or ())[:_MAX_CANDIDATES]:
            shared = min(most, holder.sharable, common(tokens, holder.tokens))
            if shared < BLOCK:
                continue
            if best is None or (-shared, prefer(holder)) < (-longest, prefer(best)):
                best, longest = holder, shared
        return best, longest

    def __len__(self) -> int:
        return len(self._holders)

    def _drop(self, key: int, holder: H) -> None:
        holders = self._holders[key]
        del holders[holder]
        if not holders:
            del self._holders[key]


def common(a: array[int], b: array[int]) -> int:
    """Return the length of the common prefix of two token sequences."""
    length = min(len(a), len(b))
    left = np.frombuffer(a, np.int32, length) if length else np.empty(0, np.int32)
    right = np.frombuffer(b, np.int32, length) if length else left
    different = np.flatnonzero(left != right)
    return int(different[0]) if len(different) else length


def _key(before: int, tokens: array[int], block: int) -> int:
    part = tokens[block * BLOCK : (block + 1) * BLOCK].tobytes()
    return int(xxhash.xxh3_64_intdigest(part, seed=before))
