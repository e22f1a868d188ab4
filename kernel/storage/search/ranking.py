"""The best passages for a query that the caller may read: by words, by meaning, or both fused.

All passages are ranked, and the first ones whose file has a name for the caller are taken. So
results do not depend on files that the caller may not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from aios.kernel.retrieval import words
from aios.kernel.retrieval.fusion import fuse

from .passages import Passages, owner_word

Mode = Literal["keyword", "semantic", "mixed"]
_CANDIDATES = 4
"""Passages of each ranking that are fused, per passage wanted."""


class Query(NamedTuple):
    """A query, and where to search. ``among``: numbers of files; None: all of the owners'."""

    text: str
    vector: bytes | None
    mode: Mode
    owners: Sequence[str]
    among: Sequence[int] | None
    most: int


class Found(NamedTuple):
    """A passage that a search found. ``name``: what ``named`` gave for its file."""

    file: int
    name: str
    version: int
    offset: int
    text: str
    score: float


Named = Callable[[int], str | None]
"""Returns a file's name for the caller; '' when it is resolved later; None: not for the caller."""
_Scored = list[tuple[int, float]]
"""Rows of passages with their scores, best first."""


def best(passages: Passages, query: Query, named: Named) -> list[Found]:
    """Return the best passages, best first. ``named`` is asked once for each file."""
    ranking = _Ranking(passages, query, named)
    if query.mode == "keyword":
        ranked = ranking.by_words(query.most)
    elif query.mode == "semantic":
        ranked = ranking.by_meaning(query.most)
    else:
        some = _CANDIDATES * query.most
        both = (ranking.by_meaning(some), ranking.by_words(some))
        ranked = fuse([[row for row, _ in scored] for scored in both])[: query.most]
    return [ranking.found(row, score) for row, score in ranked]


class _Ranking:
    def __init__(self, passages: Passages, query: Query, named: Named) -> None:
        self._passages, self._query, self._named = passages, query, named
        self._names: dict[int, str | None] = {}

    def by_words(self, most: int) -> _Scored:
        """Rank passages that have any word of the query, by BM25."""
        query = self._query
        match = words.match(query.text, "whose", [owner_word(owner) for owner in query.owners])
        if not match:
            return []
        where = "owner IN (SELECT value FROM json_each(:owners))"
        if query.among is not None:
            where += " AND file IN (SELECT value FROM json_each(:among))"
        rows = self._passages.run(
            f"SELECT rowid, file, -rank FROM passage WHERE passage MATCH :match AND {where}"
            " ORDER BY rank",
            {"match": match, "owners": json.dumps(query.owners), "among": json.dumps(query.among)},
        )
        return self._first(rows, most)

    def by_meaning(self, most: int) -> _Scored:
        """Rank passages by the cosine between their vector and the query's."""
        query = self._query
        if query.vector is None:
            return []
        return self._first(
            self._passages.vectors.search(query.owners, query.vector, most, query.among), most
        )

    def _first(self, ranked: Iterable[tuple[int, int, float]], most: int) -> _Scored:
        """Take the first rows whose file has a name for the caller. ``ranked``: row, file,
        score."""
        taken: _Scored = []
        for row, file, score in ranked:
            if file not in self._names:
                self._names[file] = self._named(file)
            if self._names[file] is not None:
                taken.append((row, score))
            if len(taken) == most:
                break
        return taken

    def found(self, row: int, score: float) -> Found:
        """Read a passage."""
        file, version, at, text = self._passages.run(
            "SELECT file, version, at, text FROM passage WHERE rowid = ?", (row,)
        ).fetchone()
        return Found(file, self._names[file] or "", version, at, text, score)
