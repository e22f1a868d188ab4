"""A history: the newest records of one kind, numbered from the first one ever.

A reader continues from a number, which stays valid however many records have been added, and
forgotten, since.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class History(Generic[T]):
    """Keeps the newest ``limit`` records. ``end``: the number that the next one gets."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: deque[T] = deque()
        self.end = 0
        self.dropped = 0
        """Records forgotten because there were too many."""

    def append(self, record: T) -> None:
        """Add a record; forget the oldest when there are too many."""
        self._records.append(record)
        self.end += 1
        if len(self._records) > self._limit:
            self._records.popleft()
            self.dropped += 1

    def since(self, number: int) -> list[T]:
        """Return the records from this number on that are still there, oldest first."""
        first = self.end - len(self._records)
        return list(islice(self._records, max(0, number - first), None))

    def forget(self, number: int) -> None:
        """Forget the records before this number."""
        for _ in range(min(len(self._records), number - self.end + len(self._records))):
            self._records.popleft()
