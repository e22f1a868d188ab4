"""A history: the newest records of one kind, numbered from the first that there ever was.

Numbers are what a reader goes on from: they mean the same however many records have come, and have
been forgotten, since it last looked.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class History(Generic[T]):
    """At most so many records. ``end`` is the number that the next one gets."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._records: deque[T] = deque()
        self.end = 0
        self.dropped = 0
        """Forgotten because there were too many."""

    def append(self, record: T) -> None:
        """Add one; the oldest is forgotten when there are too many."""
        self._records.append(record)
        self.end += 1
        if len(self._records) > self._most:
            self._records.popleft()
            self.dropped += 1

    def since(self, number: int) -> list[T]:
        """Those from this number on which are still there, oldest first."""
        first = self.end - len(self._records)
        return list(islice(self._records, max(0, number - first), None))

    def forget(self, number: int) -> None:
        """Those before this number."""
        for _ in range(min(len(self._records), number - self.end + len(self._records))):
            self._records.popleft()
