"""Eviction: which cached image leaves a tier of the store first (GreedyDual)."""

from __future__ import annotations

import heapq
import itertools

from .sequence import Image


class Shelf:
    """Cached images of one tier, least valuable first; among equals, the least recently used."""

    _uses = itertools.count(1)

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Image]] = []
        self._clock = 0.0
        self._compact_at = 64

    def __len__(self) -> int:
        """Entries, those of images that have left included."""
        return len(self._heap)

    def put(self, image: Image) -> None:
        """Add an image, or note that it was used."""
        image.use = next(self._uses)
        heapq.heappush(self._heap, (self._clock + image.worth, image.use, image))
        if len(self._heap) > self._compact_at:
            self._heap = [entry for entry in self._heap if entry[2].use == entry[1]]
            heapq.heapify(self._heap)
            self._compact_at = max(64, 2 * len(self._heap))

    def take(self) -> Image | None:
        """Remove the least valuable image that is not in use; return None if there is none."""
        busy = []
        found = None
        while self._heap and found is None:
            entry = heapq.heappop(self._heap)
            if entry[2].use != entry[1]:
                continue  # used again since, or removed
            if entry[2].pins:
                busy.append(entry)
            else:
                # one that had been passed over because it was in use must not turn the clock back
                self._clock, found = max(self._clock, entry[0]), entry[2]
        for entry in busy:
            heapq.heappush(self._heap, entry)
        if found:
            found.use = 0
        return found
