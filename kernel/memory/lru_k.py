"""LRU-K, the order in which notes are evicted from RAM. Pure: time is a count of uses.

The key whose K-th latest use is longest ago goes first. Keys used less than K times go before all
others, the least recently used first. So a scan, which uses each key once, evicts nothing that is
used again and again. Uses are remembered for a while after a key was dropped, so a key that returns
does not count as new.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = 2
"""Uses that count."""
MAX_REMEMBERED = 4096
"""Limit on dropped keys whose uses are remembered."""

T = TypeVar("T", bound=Hashable)


class LruK(Generic[T]):
    """The eviction order of a set of keys. All operations are O(log n), amortised."""

    def __init__(self, k: int = K, most_remembered: int = MAX_REMEMBERED) -> None:
        self._k, self._most_remembered = k, most_remembered
        self._now = 0
        self._uses: dict[T, deque[int]] = {}
        self._gone: OrderedDict[T, deque[int]] = OrderedDict()
        self._heap: list[tuple[int, int, T]] = []
        """Has outdated entries; the valid entry of a key is the one with its latest use."""

    def __len__(self) -> int:
        return len(self._uses)

    def __contains__(self, key: T) -> bool:
        return key in self._uses

    def use(self, key: T) -> None:
        """Count a use of a key; add the key if it is new."""
        self._now += 1
        uses = self._uses.get(key)
        if uses is None:
            uses = self._uses[key] = self._gone.pop(key, deque(maxlen=self._k))
        uses.append(self._now)
        heapq.heappush(self._heap, self._entry(key))
        if len(self._heap) > 2 * len(self._uses) + 64:
            self._heap = [self._entry(key) for key in self._uses]
            heapq.heapify(self._heap)

    def drop(self, key: T, *, remember: bool = False) -> None:
        """Remove a key. ``remember`` its uses if it may return. Unknown keys are ignored."""
        uses = self._uses.pop(key, None)
        if remember and uses:
            self._gone[key] = uses
            if len(self._gone) > self._most_remembered:
                self._gone.popitem(last=False)
        elif not remember:
            self._gone.pop(key, None)

    def victim(self) -> T | None:
        """Return the key to drop next, which stays until it is dropped; None when there is none."""
        while self._heap:
            _, last, key = self._heap[0]
            uses = self._uses.get(key)
            if uses and uses[-1] == last:
                return key
            heapq.heappop(self._heap)
        return None

    def _entry(self, key: T) -> tuple[int, int, T]:
        uses = self._uses[key]
        return (uses[0] if len(uses) == self._k else 0), uses[-1], key
