"""Vectors of notes in RAM, for searching them by meaning; used by the worker's thread only.

A scope's vectors are read from its store at its first search by meaning, kept as 8-bit integers
with one scale each (a quarter of float32, at no loss that ranks show), and dropped when other
scopes need the room. A search is one pass over them, block by block, so that a block's floats
stay in the processor's cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from .store import NoteStore

_BLOCK = 1024
_FIRST_ROOM = 64

Scope = tuple[bool, int]
"""Whether it is of the lasting store, and its number there."""


def pack(vector: bytes) -> bytes:
    """A vector of float32 as a float32 scale and 8-bit integers."""
    values = np.frombuffer(vector, np.float32)
    scale = np.float32(float(np.abs(values).max()) / 127 or 1.0)
    return bytes(scale.tobytes() + np.rint(values / scale).astype(np.int8).tobytes())


class ScopeVectors:
    """The vectors of one scope, in no order."""

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self._rows = np.empty(_FIRST_ROOM, np.int64)
        self._kinds = np.empty(_FIRST_ROOM, np.int8)
        self._scales = np.empty(_FIRST_ROOM, np.float32)
        self._values = np.empty((_FIRST_ROOM, dimensions), np.int8)

    @property
    def size_bytes(self) -> int:
        """RAM that it takes."""
        parts = (self._rows, self._kinds, self._scales, self._values)
        return sum(part.nbytes for part in parts)

    def add(self, row: int, kind: int, packed: bytes) -> None:
        """Another vector. One of other dimensions, from an earlier model, is left out."""
        if len(packed) - 4 != self._values.shape[1]:
            return
        if self.count == len(self._rows):
            self._grow()
        at = self.count
        self._rows[at], self._kinds[at] = row, kind
        self._scales[at] = np.frombuffer(packed, np.float32, 1)[0]
        self._values[at] = np.frombuffer(packed, np.int8, offset=4)
        self.count += 1

    def remove(self, row: int) -> None:
        """Nothing when it is not there."""
        for at in np.nonzero(self._rows[: self.count] == row)[0]:
            last = self.count - 1
            for part in (self._rows, self._kinds, self._scales, self._values):
                part[at] = part[last]
            self.count = last

    def nearest(
        self, query: npt.NDArray[np.float32], most: int, log: bool
    ) -> list[tuple[int, float]]:
        """Rows and cosines of the nearest, best first."""
        if not self.count:
            return []
        scores = np.empty(self.count, np.float32)
        for at in range(0, self.count, _BLOCK):
            end = min(at + _BLOCK, self.count)
            scores[at:end] = self._values[at:end].astype(np.float32) @ query
        scores *= self._scales[: self.count]
        if not log:
            scores[self._kinds[: self.count] != 0] = -2.0
        most = min(most, self.count)
        best = np.argpartition(scores, self.count - most)[self.count - most :]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [(int(self._rows[at]), float(scores[at])) for at in best if scores[at] > -2.0]

    def _grow(self) -> None:
        def doubled(part: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
            larger = np.empty((2 * len(part), *part.shape[1:]), part.dtype)
            larger[: len(part)] = part
            return larger

        self._rows = doubled(self._rows)  # type: ignore[assignment]  # dtypes stay
        self._kinds = doubled(self._kinds)  # type: ignore[assignment]
        self._scales = doubled(self._scales)  # type: ignore[assignment]
        self._values = doubled(self._values)  # type: ignore[assignment]


class Vectors:
    """The scopes whose vectors are in RAM, the least recently searched first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._scopes: OrderedDict[Scope, ScopeVectors] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """RAM that they take."""
        return sum(vectors.size_bytes for vectors in self._scopes.values())

    def add(self, store: NoteStore, stored: Iterable[tuple[int, bytes]]) -> None:
        """Vectors that were written to the store."""
        for row, packed in stored:
            found = store.scope_of(row)
            vectors = self._scopes.get((store.lasting, found[0])) if found else None
            if found and vectors:
                vectors.remove(row)
                vectors.add(row, found[1], packed)

    def remove(self, store: NoteStore, row: int) -> None:
        """The note has another text, or is gone."""
        for (lasting, _), vectors in self._scopes.items():
            if lasting == store.lasting:
                vectors.remove(row)

    def forget(self, store: NoteStore, number: int | None) -> None:
        """The scope is gone."""
        if number is not None:
            self._scopes.pop((store.lasting, number), None)

    def forget_all(self, store: NoteStore) -> None:
        """They are of another model."""
        for key in [key for key in self._scopes if key[0] == store.lasting]:
            del self._scopes[key]

    def nearest(
        self, store: NoteStore, scopes: Sequence[str], query: bytes, most: int, log: bool
    ) -> list[tuple[int, float]]:
        """Rows and cosines of the nearest in these scopes, best first."""
        vector = np.frombuffer(query, np.float32)
        found: list[tuple[int, float]] = []
        for scope in scopes:
            number = store.number(scope)
            if number is not None:
                found += self._of(store, number, len(vector)).nearest(vector, most, log)
        return sorted(found, key=lambda pair: -pair[1])[:most]

    def _of(self, store: NoteStore, number: int, dimensions: int) -> ScopeVectors:
        key = store.lasting, number
        vectors = self._scopes.get(key)
        if vectors is None:
            vectors = self._scopes[key] = ScopeVectors(dimensions)
            for row, kind, packed in store.vectors(number):
                vectors.add(row, kind, packed)
        self._scopes.move_to_end(key)
        while self.size_bytes > self._most_bytes and len(self._scopes) > 1:
            self._scopes.popitem(last=False)
        return vectors
