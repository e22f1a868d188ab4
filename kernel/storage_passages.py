"""index.db: passages of text with their words (FTS5) and, where they are known, their vectors.

Only the thread of the index calls this. A passage is about a paragraph or a few, so that a hit can
be shown and put into a prompt. Rows of one file are numbered in a row, which is how they go again.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PASSAGE_CHARS = 1200
MOST_VECTORS = 64
"""Passages of a file, from its beginning, that are found by meaning; the others by their words."""
_FORMAT = 2
_FUSION = 60.0
"""Of reciprocal rank fusion: how little the first ranks count more than the next."""
_TABLES = """
CREATE TABLE document(
    file INTEGER PRIMARY KEY, owner TEXT NOT NULL, version INTEGER NOT NULL, stamp REAL NOT NULL,
    first INTEGER NOT NULL, count INTEGER NOT NULL);
CREATE VIRTUAL TABLE passage USING fts5(
    text, file UNINDEXED, owner UNINDEXED, version UNINDEXED, at UNINDEXED,
    tokenize = 'porter unicode61');
CREATE TABLE vector(
    passage INTEGER PRIMARY KEY, owner TEXT NOT NULL, file INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX vector_owner ON vector(owner);
CREATE TABLE todo(owner TEXT NOT NULL, passage INTEGER NOT NULL, PRIMARY KEY(owner, passage))
    WITHOUT ROWID;
"""

log = logging.getLogger("aios.storage")


class Document(NamedTuple):
    """A file's text as it is now; '' takes it out."""

    file: int
    owner: str
    version: int
    stamp: float
    text: str


class Found(NamedTuple):
    """A passage that a search found."""

    file: int
    version: int
    offset: int
    text: str
    score: float


class Passages:
    """The database, open."""

    def __init__(self, path: Path) -> None:
        self._last_owner = ""
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            log.warning("%s is made anew: %s", path, error)
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink(missing_ok=True)
            self._connection = _open(path)

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def known(self) -> dict[int, float]:
        """Files that are in, with their time of change."""
        return dict(self._connection.execute("SELECT file, stamp FROM document"))

    def put(self, documents: Sequence[Document]) -> None:
        """Take these in, in place of what was there of them."""
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        try:
            for document in documents:
                self._put(document)
            run("COMMIT")
        except BaseException:
            run("ROLLBACK")
            raise

    def _put(self, document: Document) -> None:
        run = self._connection.execute
        old = run("SELECT first, count, owner FROM document WHERE file = ?",
                  (document.file,)).fetchone()  # fmt: skip
        if old:
            span = (old[0], old[0] + old[1])
            run("DELETE FROM passage WHERE rowid >= ? AND rowid < ?", span)
            run("DELETE FROM vector WHERE passage >= ? AND passage < ?", span)
            run("DELETE FROM todo WHERE owner = ? AND passage >= ? AND passage < ?",
                (old[2], *span))  # fmt: skip
            run("DELETE FROM document WHERE file = ?", (document.file,))
        if not document.owner:
            return
        first = run("SELECT coalesce(max(rowid), 0) + 1 FROM passage").fetchone()[0]
        number = first
        for number, (at, text) in enumerate(passages(document.text), first):
            run("INSERT INTO passage(rowid, text, file, owner, version, at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (number, text, document.file, document.owner, document.version, at))  # fmt: skip
            if number < first + MOST_VECTORS:
                run("INSERT INTO todo VALUES (?, ?)", (document.owner, number))
        count = number - first + 1 if document.text.strip() else 0
        run("INSERT INTO document VALUES (?, ?, ?, ?, ?, ?)",
            (document.file, document.owner, document.version, document.stamp, first, count),
        )  # fmt: skip

    # ------------------------------------------------------------------ vectors

    def without_vector(self, most: int) -> list[tuple[int, str]]:
        """Passages of a home that are not embedded yet; the homes that have some take turns."""
        following = "SELECT min(owner) FROM todo WHERE owner > ?"
        (owner,) = self._connection.execute(following, (self._last_owner,)).fetchone()
        if owner is None:
            (owner,) = self._connection.execute(following, ("",)).fetchone()
        self._last_owner = owner or ""
        return self._connection.execute(
            "SELECT todo.passage, text FROM todo JOIN passage ON passage.rowid = todo.passage"
            " WHERE todo.owner = ? LIMIT ?",
            (owner, most),
        ).fetchall()

    def put_vectors(self, numbers: Sequence[int], vectors: Sequence[bytes]) -> None:
        """Keep their vectors, at unit length."""
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        for number, vector in zip(numbers, vectors, strict=True):
            run("INSERT OR REPLACE INTO vector SELECT rowid, owner, file, ? FROM passage"
                " WHERE rowid = ?", (_unit(vector).tobytes(), number))  # fmt: skip
            run("DELETE FROM todo WHERE owner = ? AND passage = ?", (self._last_owner, number))
        run("COMMIT")

    # ------------------------------------------------------------------ finding

    def find(
        self, owner: str, query: str, vector: bytes | None, mode: str, among: str | None, most: int
    ) -> list[Found]:
        """The best passages; ``among``: file numbers as a JSON list, None for all."""
        scores: dict[int, float] = {}
        if mode == "keyword":
            scores = dict(self._by_words(owner, query, among, most))
        elif vector is not None:
            meant = self._by_meaning(owner, vector, among, most if mode == "semantic" else 4 * most)
            if mode == "semantic":
                scores = dict(meant)
            else:
                for ranked in (meant, self._by_words(owner, query, among, 4 * most)):
                    for rank, (number, _) in enumerate(ranked):
                        scores[number] = scores.get(number, 0.0) + 1.0 / (_FUSION + rank)
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:most]
        return [found for number, score in best if (found := self._found(number, score))]

    def _found(self, number: int, score: float) -> Found | None:
        row = self._connection.execute(
            "SELECT file, version, at, text FROM passage WHERE rowid = ?", (number,)
        ).fetchone()
        return Found(row[0], row[1], row[2], row[3], score) if row else None

    def _by_words(
        self, owner: str, query: str, among: str | None, most: int
    ) -> list[tuple[int, float]]:
        """Passages with any of the words, by BM25."""
        words = re.findall(r"\w+", query)[:64]
        if not words:
            return []
        restricted = "" if among is None else " AND file IN (SELECT value FROM json_each(:among))"
        rows = self._connection.execute(
            "SELECT rowid, -bm25(passage) FROM passage WHERE passage MATCH :words"
            f" AND owner = :owner{restricted} ORDER BY rank LIMIT :most",
            {"words": " OR ".join(f'"{word}"' for word in words), "owner": owner,
             "among": among, "most": most},
        )  # fmt: skip
        return rows.fetchall()

    def _by_meaning(
        self, owner: str, vector: bytes, among: str | None, most: int
    ) -> list[tuple[int, float]]:
        """Passages by the cosine between their vector and the query's."""
        wanted = _unit(vector)
        restricted = "" if among is None else " AND file IN (SELECT value FROM json_each(:among))"
        rows = self._connection.execute(
            f"SELECT passage, data FROM vector WHERE owner = :owner{restricted}"
            " AND length(data) = :size",
            {"owner": owner, "among": among, "size": wanted.nbytes},
        ).fetchall()
        if not rows:
            return []
        matrix = np.frombuffer(b"".join(data for _, data in rows), np.float32)
        scores = matrix.reshape(len(rows), -1) @ wanted
        best = np.argsort(-scores, kind="stable")[:most]
        return [(rows[i][0], float(scores[i])) for i in best]


def passages(text: str) -> Iterator[tuple[int, str]]:
    """Cut text at ends of paragraphs, lines or words, with the offset of each part."""
    start = 0
    while start < len(text):
        end = start + PASSAGE_CHARS
        if end < len(text):
            for mark in ("\n\n", "\n", ". ", " "):
                cut = text.rfind(mark, start + PASSAGE_CHARS // 2, end)
                if cut > 0:
                    end = cut + len(mark)
                    break
        if text[start:end].strip():
            yield start, text[start:end]
        start = end


def _unit(vector: bytes) -> NDArray[np.float32]:
    values = np.frombuffer(vector, np.float32)
    length = float(np.linalg.norm(values))
    return values / np.float32(length) if length else values


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not tables:
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={_FORMAT}; COMMIT;")
        elif found != _FORMAT:
            raise sqlite3.DatabaseError(f"format {found}")
        elif connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("damaged")
    except BaseException:
        connection.close()
        raise
    return connection
