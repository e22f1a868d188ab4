"""index.db: passages of text with their words (FTS5) and their vectors. Used by the index's thread.

A passage's owner is a home, or a mounted folder by its path on the host. Files of homes have the
numbers that they have in meta.db, files of folders have numbers below 0 (mount_table.py). The rows
of one file are consecutive, so they are deleted as a range. A word that stands for the owner is
indexed with each passage, so that a search reads little of what others own.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aios.kernel.retrieval.vectors import Item, VectorCache, pack
from aios.kernel.storage.db.schema import INDEX_FORMAT, remove

from .text import cut

MAX_VECTORS = 64
"""Limit on passages of a file that have a vector, from its beginning; the others are found by
their words only."""
VECTOR_RAM_BYTES = 128 << 20
"""Limit on RAM for vectors; a larger home or folder is read from index.db in each search."""
_FLOAT_VECTORS = 3
"""The format whose vectors were float32."""
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
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
    """A file's text as it is now. Owner '': the file is gone."""

    file: int
    owner: str
    version: int
    stamp: float
    text: str


class Passages:
    """The open database, and its vectors in RAM."""

    def __init__(self, path: Path) -> None:
        self._path, self._last_owner = path, ""
        self.vectors = VectorCache(VECTOR_RAM_BYTES, self._vector_count, self._vectors)
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            self._empty(str(error))

    def _empty(self, reason: str) -> None:
        log.warning("%s is rebuilt: %s", self._path, reason)
        remove(self._path)
        self.vectors.clear()
        self._connection = _open(self._path)

    def emptied_by(self, error: sqlite3.Error) -> bool:
        """Empty the index and return True if an error means damage."""
        if int(getattr(error, "sqlite_errorcode", 0)) & 0xFF not in _DAMAGE:
            return False
        self.empty(str(error))
        return True

    def empty(self, reason: str) -> None:
        """Empty the index, to fill it again."""
        self.close()
        self._empty(reason)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def known(self) -> dict[int, float]:
        """Return the indexed files of homes, with their time of change."""
        return dict(self.run("SELECT file, stamp FROM document WHERE file >= 0"))

    def run(
        self, statement: str, values: Sequence[object] | Mapping[str, object] = ()
    ) -> sqlite3.Cursor:
        """Run one statement."""
        return self._connection.execute(statement, values)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Make the block one transaction."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            self.vectors.clear()  # they may be ahead of the table
            self.run("ROLLBACK")
            raise

    def put(self, documents: Iterable[Document]) -> None:
        """Index documents, in place of what was indexed of them."""
        with self.changing():
            for document in documents:
                self.replace(document)

    def replace(self, document: Document) -> None:
        """Index one document, within ``changing``."""
        self._delete(document.file)
        if not document.owner:
            return
        run = self.run
        first = run("SELECT coalesce(max(rowid), 0) + 1 FROM passage").fetchone()[0]
        number = first
        for number, (at, text) in enumerate(cut(document.text), first):
            run("INSERT INTO passage(rowid, text, whose, file, owner, version, at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, text, owner_word(document.owner), document.file, document.owner,
                 document.version, at))  # fmt: skip
            if number < first + MAX_VECTORS:
                run("INSERT INTO todo VALUES (?, ?, ?)", (document.owner, number, document.file))
        count = number - first + 1 if document.text.strip() else 0
        run("INSERT INTO document VALUES (?, ?, ?, ?, ?, ?)",
            (document.file, document.owner, document.version, document.stamp, first, count),
        )  # fmt: skip

    def _delete(self, file: int) -> None:
        found = self.run("SELECT first, first + count, owner FROM document WHERE file = ?",
                         (file,)).fetchone()  # fmt: skip
        if found:
            first, end, owner = found
            self.run("DELETE FROM passage WHERE rowid >= ? AND rowid < ?", (first, end))
            self.run("DELETE FROM vector WHERE passage >= ? AND passage < ?", (first, end))
            self.run("DELETE FROM todo WHERE owner = ? AND passage >= ? AND passage < ?",
                     (owner, first, end))  # fmt: skip
            self.run("DELETE FROM document WHERE file = ?", (file,))
            self.vectors.remove(owner, range(first, end))

    # ------------------------------------------------------------------ vectors

    def without_vector(self, most: int) -> list[tuple[int, str]]:
        """Return passages of one owner that have no vector yet; the owners take turns."""
        following = "SELECT min(owner) FROM todo WHERE owner > ?"
        (owner,) = self.run(following, (self._last_owner,)).fetchone()
        if owner is None:
            (owner,) = self.run(following, ("",)).fetchone()
        self._last_owner = owner or ""
        return self.run(
            "SELECT todo.passage, text FROM todo JOIN passage ON passage.rowid = todo.passage"
            " WHERE todo.owner = ? LIMIT ?",
            (owner, most),
        ).fetchall()

    def put_vectors(self, rows: Sequence[tuple[int, str]], vectors: Sequence[bytes]) -> None:
        """Store the vectors of those passages that are still the same."""
        with self.changing():
            for (number, text), vector in zip(rows, vectors, strict=True):
                found = self.run(
                    "SELECT owner, file FROM passage WHERE rowid = ? AND text = ?", (number, text)
                ).fetchone()
                if found:
                    owner, file = found
                    packed = pack(vector)
                    self.run("INSERT OR REPLACE INTO vector VALUES (?, ?, ?, ?)",
                             (number, owner, file, packed))  # fmt: skip
                    self.run("DELETE FROM todo WHERE owner = ? AND passage = ?", (owner, number))
                    self.vectors.put(owner, [(number, file, packed)])

    def _vector_count(self, owner: str) -> int:
        found = self.run("SELECT count(*) FROM vector WHERE owner = ?", (owner,))
        return int(found.fetchone()[0])

    def _vectors(self, owner: str) -> Iterable[Item]:
        return self.run("SELECT passage, file, data FROM vector WHERE owner = ?", (owner,))


def owner_word(owner: str) -> str:
    """Return the word that stands for an owner among the words of its passages."""
    return f"w{hashlib.blake2b(owner.encode(), digest_size=8).hexdigest()}"


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not tables:
            connection.executescript(
                f"BEGIN; {_TABLES} PRAGMA user_version={INDEX_FORMAT}; COMMIT;"
            )
        elif found not in (INDEX_FORMAT, _FLOAT_VECTORS):
            raise sqlite3.DatabaseError(f"format {found}")
        elif connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("damaged")
        elif found == _FLOAT_VECTORS:
            connection.create_function("pack", 1, pack)
            connection.executescript("BEGIN; UPDATE vector SET data = pack(data);"
                                     f" PRAGMA user_version={INDEX_FORMAT}; COMMIT;")  # fmt: skip
    except BaseException:
        connection.close()
        raise
    return connection
