"""Vectors in RAM, searched by cosine: 8-bit matrices within a bound.

Vectors belong to groups, which are searched as a whole: a scope of notes, a home, a mounted folder.
The first search of a group reads its vectors from their table; ``put`` and ``remove`` keep them in
step with it. A vector is kept as 8-bit integers with one scale (a quarter of float32, at no loss
that rankings show). A search is one pass, block by block, so that a block's floats stay in the
processor's cache.

Above the bound, the groups that were not searched for longest are dropped. A group that exceeds the
bound by itself is never kept: each search reads it from its table, one block at a time. Used by one
thread.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

_BLOCK = 1024
"""Vectors multiplied, or read from a table, at once."""
_FIRST_ROOM = 64
_SCALE_BYTES = 4
_BOOK_BYTES = 20
"""RAM of a vector besides its values: row, tag and scale."""

G = TypeVar("G", bound=Hashable)
Item = tuple[int, int, bytes]
"""A vector's row in its table, its tag (a number to filter by), and the vector, packed."""
Floats = npt.NDArray[np.float32]


class Near(NamedTuple):
    """A vector near the query."""

    row: int
    tag: int
    cosine: float


def pack(vector: bytes) -> bytes:
    """Return a float32 vector as 8-bit integers behind their float32 scale, at length 1."""
    values = _unit(vector)
    scale = np.float32(float(np.abs(values).max(initial=0)) / 127 or 1.0)
    return bytes(scale.tobytes() + np.rint(values / scale).astype(np.int8).tobytes())


def _unit(vector: bytes) -> Floats:
    values = np.frombuffer(vector, np.float32)
    length = np.float32(np.linalg.norm(values))
    return values / length if length else values


def unpack(packed: bytes) -> Floats:
    """Return the float32 values of a packed vector."""
    scale = np.frombuffer(packed, np.float32, 1)[0]
    values: Floats = np.frombuffer(packed, np.int8, offset=_SCALE_BYTES).astype(np.float32)
    return values * np.float32(scale)


class Matrix:
    """The vectors of a group, in no order."""

    def __init__(self, dimensions: int, room: int = _BLOCK) -> None:
        self.dimensions, self.count = dimensions, 0
        self._rows = np.empty(room, np.int64)
        self._tags = np.empty(room, np.int64)
        self._scales = np.empty(room, np.float32)
        self._values = np.empty((room, dimensions), np.int8)

    @property
    def size_bytes(self) -> int:
        """RAM that it takes."""
        return len(self._rows) * (self.dimensions + _BOOK_BYTES)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Rows, in the order of ``scores``."""
        return self._rows[: self.count]

    @property
    def tags(self) -> npt.NDArray[np.int64]:
        """Tags, in the order of ``scores``."""
        return self._tags[: self.count]

    def add(self, items: Iterable[Item]) -> None:
        """Add vectors. Those of other dimensions, from an earlier model, are left out."""
        size = _SCALE_BYTES + self.dimensions
        fitting = [item for item in items if len(item[2]) == size]
        start, self.count = self.count, self.count + len(fitting)
        self._reserve(self.count)
        if fitting:
            packed = np.frombuffer(b"".join(item[2] for item in fitting), np.int8)
            packed = packed.reshape(len(fitting), size)
            self._rows[start : self.count] = [item[0] for item in fitting]
            self._tags[start : self.count] = [item[1] for item in fitting]
            scales = packed[:, :_SCALE_BYTES].copy().view(np.float32)
            self._scales[start : self.count] = scales[:, 0]
            self._values[start : self.count] = packed[:, _SCALE_BYTES:]

    def remove(self, rows: Sequence[int]) -> None:
        """Remove vectors by row. Rows that are not there are ignored."""
        for at in np.flatnonzero(np.isin(self.rows, rows))[::-1]:
            self.count -= 1
            for part in (self._rows, self._tags, self._scales, self._values):
                part[at] = part[self.count]

    def scores(self, query: Floats) -> Floats:
        """Return the product of each vector with the query."""
        scores = np.empty(self.count, np.float32)
        for at in range(0, self.count, _BLOCK):
            end = min(at + _BLOCK, self.count)
            scores[at:end] = self._values[at:end].astype(np.float32) @ query
        return scores * self._scales[: self.count]

    def _reserve(self, room: int) -> None:
        if room <= len(self._rows):
            return
        room = max(room, len(self._rows) * 5 // 4 + _FIRST_ROOM)
        for name in ("_rows", "_tags", "_scales", "_values"):
            part = getattr(self, name)
            larger = np.empty((room, *part.shape[1:]), part.dtype)
            larger[: len(part)] = part
            setattr(self, name, larger)


class VectorCache(Generic[G]):
    """The matrices of the groups that were searched last."""

    def __init__(
        self, max_bytes: int, count: Callable[[G], int], read: Callable[[G], Iterable[Item]]
    ) -> None:
        """``count`` and ``read``: the number of a group's vectors, and these, from the table."""
        self._max_bytes, self._count, self._read = max_bytes, count, read
        self._held: OrderedDict[G, Matrix] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """RAM that the matrices take."""
        return sum(matrix.size_bytes for matrix in self._held.values())

    def put(self, group: G, items: Sequence[Item]) -> None:
        """Take over vectors that were written to the table, in place of those of the same rows."""
        if matrix := self._held.get(group):
            matrix.remove([row for row, _, _ in items])
            matrix.add(items)
            self._evict()

    def remove(self, group: G, rows: Sequence[int]) -> None:
        """Drop vectors that were deleted from the table."""
        if matrix := self._held.get(group):
            matrix.remove(rows)

    def forget(self, group: G) -> None:
        """Drop a group; its next search reads it again."""
        self._held.pop(group, None)

    def clear(self) -> None:
        """Drop all groups."""
        self._held.clear()

    def search(
        self, groups: Iterable[G], query: bytes, first: int, tags: Collection[int] | None = None
    ) -> Iterator[Near]:
        """Give the vectors of some groups, nearest first. ``query``: float32 values.
        ``first``: how many the caller probably takes. ``tags``: leave out all others."""
        vector = _unit(query)
        found = [(part.rows, part.tags, part.scores(vector))
                 for group in groups for part in self._parts(group, len(vector))]  # fmt: skip
        if not found:
            return
        rows = np.concatenate([part[0] for part in found])
        marks = np.concatenate([part[1] for part in found])
        scores = np.concatenate([part[2] for part in found])
        kept = np.arange(len(rows)) if tags is None else np.flatnonzero(np.isin(marks, list(tags)))
        for at in _best_first(scores[kept], first):
            n = kept[at]
            yield Near(int(rows[n]), int(marks[n]), float(scores[n]))

    def _parts(self, group: G, dimensions: int) -> Iterator[Matrix]:
        """Give a group's vectors: one matrix from RAM, or block by block if it is too large."""
        held = self._held.get(group)
        if held is None or held.dimensions != dimensions:
            self.forget(group)
            room = self._count(group)
            if room * (dimensions + _BOOK_BYTES) > self._max_bytes:
                yield from self._blocks(group, dimensions)
                return
            held = Matrix(dimensions, room)
            for block in _batches(self._read(group)):
                held.add(block)
            self._held[group] = held
        self._held.move_to_end(group)
        self._evict()
        yield held

    def _blocks(self, group: G, dimensions: int) -> Iterator[Matrix]:
        for items in _batches(self._read(group)):
            block = Matrix(dimensions)
            block.add(items)
            yield block

    def _evict(self) -> None:
        while self.size_bytes > self._max_bytes:
            self._held.popitem(last=False)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(itertools.islice(rest, _BLOCK)):
        yield batch


def _best_first(scores: Floats, first: int) -> Iterator[int]:
    """Give the indexes of scores, best first, equal ones in order. Sorts the ``first`` best, and
    the others only if they are asked for."""
    order = np.arange(len(scores))
    if 0 < first < len(scores):
        order = np.argpartition(-scores, first)
    for part in (order[:first], order[first:]):
        yield from part[np.lexsort((part, -scores[part]))]
