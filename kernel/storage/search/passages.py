"""index.db: passages of text with their words (FTS5) and, where they are known, their vectors.

Only the thread of the index calls this. A passage is about a paragraph or a few, so that a hit can
be shown and put into a prompt. Rows of one file are numbered in a row, which is how they go again.

Their owner is a home, or a mounted folder of the host by its path, whoever it is mounted for. Files
of homes have the numbers they have in meta.db, those of folders numbers below 0
(mounted.py). A word that stands for the owner is searched along with the words of a query,
so that what others have costs a search little.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aios.kernel.storage.db.schema import remove

MOST_TEXT_BYTES = 1 << 20
"""Of a file, from its beginning, that is searched."""
PASSAGE_CHARS = 1200
MOST_VECTORS = 64
"""Passages of a file, from its beginning, that are found by meaning; the others by their words."""
_FORMAT = 3
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FUSION = 60.0
"""Of reciprocal rank fusion: how little the first ranks count more than the next."""
_TABLES = """
CREATE TABLE document(
    file INTEGER PRIMARY KEY, owner TEXT NOT NULL, version INTEGER NOT NULL, stamp REAL NOT NULL,
    first INTEGER NOT NULL, count INTEGER NOT NULL);
CREATE VIRTUAL TABLE passage USING fts5(
    text, whose, file UNINDEXED, owner UNINDEXED, version UNINDEXED, at UNINDEXED,
    tokenize = 'porter unicode61');
INSERT INTO passage(passage, rank) VALUES ('rank', 'bm25(1.0, 0.0)');
CREATE TABLE vector(
    passage INTEGER PRIMARY KEY, owner TEXT NOT NULL, file INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX vector_owner ON vector(owner);
CREATE TABLE todo(
    owner TEXT NOT NULL, passage INTEGER NOT NULL, file INTEGER NOT NULL,
    PRIMARY KEY(owner, passage)) WITHOUT ROWID;
CREATE TABLE mounted(
    file INTEGER PRIMARY KEY, folder TEXT NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL,
    changed INTEGER NOT NULL, inode INTEGER NOT NULL, taken INTEGER NOT NULL,
    cut INTEGER NOT NULL, digest BLOB NOT NULL, UNIQUE(folder, path));
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
    """A passage that a search found. ``name`` is what the search's ``named`` gave for the file."""

    file: int
    name: str
    version: int
    offset: int
    text: str
    score: float


Named = Callable[[int], str | None]
"""A file's name for the caller, or '' when that is found out later; None: not for it."""


class Passages:
    """The database, open."""

    def __init__(self, path: Path) -> None:
        self._path, self._last_owner = path, ""
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            self._empty(str(error))

    def _empty(self, reason: str) -> None:
        log.warning("%s is made anew: %s", self._path, reason)
        remove(self._path)
        self._connection = _open(self._path)

    def made_anew(self, error: sqlite3.Error) -> bool:
        """Whether an error is one of damage; then it is empty now, and to be filled again."""
        if int(getattr(error, "sqlite_errorcode", 0)) & 0xFF not in _DAMAGE:
            return False
        self.begin_anew(str(error))
        return True

    def begin_anew(self, reason: str) -> None:
        """Empty it."""
        self.close()
        self._empty(reason)

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def known(self) -> dict[int, float]:
        """Files of homes that are in, with their time of change."""
        return dict(self.run("SELECT file, stamp FROM document WHERE file >= 0"))

    def run(
        self, statement: str, values: Sequence[object] | Mapping[str, object] = ()
    ) -> sqlite3.Cursor:
        """One statement."""
        return self._connection.execute(statement, values)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """What is done within is done whole or not at all."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            self.run("ROLLBACK")
            raise

    def put(self, documents: Iterable[Document]) -> None:
        """Take these in, in place of what was there of them."""
        with self.changing():
            for document in documents:
                self.replace(document)

    def replace(self, document: Document) -> None:
        """Take one in, within ``changing``."""
        run = self.run
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
            run("INSERT INTO passage(rowid, text, whose, file, owner, version, at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, text, _word(document.owner), document.file, document.owner,
                 document.version, at))  # fmt: skip
            if number < first + MOST_VECTORS:
                run("INSERT INTO todo VALUES (?, ?, ?)", (document.owner, number, document.file))
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

    def put_vectors(self, rows: Sequence[tuple[int, str]], vectors: Sequence[bytes]) -> None:
        """Keep the vectors, at unit length, of those passages that are still the same."""
        with self.changing():
            for (number, text), vector in zip(rows, vectors, strict=True):
                kept = self.run(
                    "INSERT OR REPLACE INTO vector SELECT rowid, owner, file, ? FROM passage"
                    " WHERE rowid = ? AND text = ?", (_unit(vector).tobytes(), number, text),
                ).rowcount  # fmt: skip
                if kept:
                    self.run("DELETE FROM todo WHERE owner = ? AND passage = ?",
                             (self._last_owner, number))  # fmt: skip

    # ------------------------------------------------------------------ finding

    def find(
        self, owners: Sequence[str], query: str, vector: bytes | None, mode: str,
        among: Sequence[int] | None, most: int, named: Named,
    ) -> list[Found]:  # fmt: skip
        """The best passages; ``among``: numbers of files, None for all of these owners'."""
        search = _Search(self.run, json.dumps(owners), among, named)
        scores: dict[int, float] = {}
        if mode == "keyword":
            scores = dict(search.by_words(query, [_word(owner) for owner in owners], most))
        elif vector is not None:
            meant = search.by_meaning(vector, most if mode == "semantic" else 4 * most)
            if mode == "semantic":
                scores = dict(meant)
            else:
                said = search.by_words(query, [_word(owner) for owner in owners], 4 * most)
                for ranked in (meant, said):
                    for rank, (number, _) in enumerate(ranked):
                        scores[number] = scores.get(number, 0.0) + 1.0 / (_FUSION + rank)
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:most]
        return [search.found(number, score) for number, score in best]


class _Search:
    """One search. Ranks all, and of these takes the first that are named."""

    def __init__(
        self, run: Callable[..., sqlite3.Cursor], owners: str, among: Sequence[int] | None,
        named: Named,
    ) -> None:  # fmt: skip
        self._run, self._named = run, named
        self._names: dict[int, str | None] = {}
        self._where = "owner IN (SELECT value FROM json_each(:owners))"
        self._values = {"owners": owners, "among": json.dumps(among)}
        if among is not None:
            self._where += " AND file IN (SELECT value FROM json_each(:among))"

    def by_words(self, query: str, whose: Sequence[str], most: int) -> list[tuple[int, float]]:
        """Passages with any of the words, by BM25."""
        words = re.findall(r"\w+", query)[:64]
        if not words or not whose:
            return []
        any_word = " OR ".join(f'"{word}"' for word in words)
        rows = self._run(
            f"SELECT rowid, file, -rank FROM passage WHERE passage MATCH :match AND {self._where}"
            " ORDER BY rank",
            {**self._values, "match": f"whose: ({' OR '.join(whose)}) AND text: ({any_word})"},
        )
        return self._first(rows, most)

    def by_meaning(self, vector: bytes, most: int) -> list[tuple[int, float]]:
        """Passages by the cosine between their vector and the query's."""
        wanted = _unit(vector)
        rows = self._run(
            f"SELECT passage, file, data FROM vector WHERE {self._where} AND length(data) = :size",
            {**self._values, "size": wanted.nbytes},
        ).fetchall()
        if not rows:
            return []
        matrix = np.frombuffer(b"".join(data for _, _, data in rows), np.float32)
        scores = matrix.reshape(len(rows), -1) @ wanted
        best = np.argsort(-scores, kind="stable")
        return self._first(((*rows[i][:2], float(scores[i])) for i in best), most)

    def _first(
        self, ranked: Iterable[tuple[int, int, float]], most: int
    ) -> list[tuple[int, float]]:
        taken: list[tuple[int, float]] = []
        for number, file, score in ranked:
            if file not in self._names:
                self._names[file] = self._named(file)
            if self._names[file] is not None:
                taken.append((number, score))
            if len(taken) == most:
                break
        return taken

    def found(self, number: int, score: float) -> Found:
        """All of a passage."""
        file, version, at, text = self._run(
            "SELECT file, version, at, text FROM passage WHERE rowid = ?", (number,)
        ).fetchone()
        return Found(file, self._names[file] or "", version, at, text, score)


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


def text_of(data: bytes) -> str:
    """Decoded when it is text, else ''; a character cut off at the end does not count."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4 or len(data) < MOST_TEXT_BYTES:
            return ""
        text = data[: error.start].decode("utf-8")
    return "" if "\0" in text else text


def _word(owner: str) -> str:
    """What stands for an owner among the words of its passages."""
    return f"w{hashlib.blake2b(owner.encode(), digest_size=8).hexdigest()}"


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
