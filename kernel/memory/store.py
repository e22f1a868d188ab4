"""Notes in SQLite: the rows of one file, their words (FTS5) and their vectors.

Each row has a checksum of its text and scope; a row that does not match it is reported, never
returned. Quotas are checked in the transaction that adds. The index of words has the scope, too, so
a search reads only its own scopes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import xxhash

from aios.kernel.retrieval import words
from aios.syscalls.errors import IllegalState, NotFound
from aios.syscalls.types.memory import Note, NoteKind

from .booking import BookedFile
from .quota import Limits, Usage

PAGE_BYTES = 4 << 20
"""Limit on the texts of one page of notes."""
KINDS: tuple[NoteKind, ...] = ("note", "prompt", "reply")
_ROW = "SELECT n.id, s.name, n.kind, n.text, n.created, n.updated, n.sum FROM notes n " \
       "JOIN scopes s ON s.id = n.scope "  # fmt: skip


class Unembedded(NamedTuple):
    """A text whose vector is missing. Its checksum ``sum`` shows later if it has changed."""

    row: int
    text: str
    sum: int


class NoteStore(BookedFile):
    """Methods run in the worker's thread, inside ``doing`` or ``reading``. Raise AiosError."""

    # ------------------------------------------------------------------ writing

    def add(
        self,
        scope: str,
        kind: NoteKind,
        text: str,
        limits: Limits | None = None,
        row: int | None = None,
        now: float | None = None,
    ) -> Note:
        """Add a note, with ``row`` and the time ``now`` if they are given. Raises
        ResourceExhausted."""
        number = self._numbered(scope)
        self._usage(number)
        size, code = len(text.encode()), KINDS.index(kind)
        now = self._clock.unix() if now is None else now
        if limits:
            self._admit(scope, number, limits, 1, size)
        cursor = self._db().execute(
            "INSERT INTO notes(id, scope, kind, text, created, updated, sum) VALUES(?,?,?,?,?,?,?)",
            (row, number, code, text, now, now, _sum(scope, code, text)),
        )
        row = cursor.lastrowid
        assert row is not None
        self._index(row, number, text)
        self._add_up(number, 1, size)
        self._book_sometimes(number, row)
        return Note(self.name(row), scope, kind, text, now, now)

    def update(self, id_: str, text: str, limits: Limits | None) -> Note:
        """Change a note's text. Raises NotFound, ResourceExhausted."""
        old = self.get(id_)
        row, number, now = int(id_[1:]), self._numbered(old.scope), self._clock.unix()
        self._usage(number)
        more = len(text.encode()) - len(old.text.encode())
        if limits:
            self._admit(old.scope, number, limits, 0, more)
        self._unindex(row, number, old.text)
        checksum = _sum(old.scope, KINDS.index(old.kind), text)
        self._db().execute(
            "UPDATE notes SET text = ?, updated = ?, sum = ?, vector = NULL WHERE id = ?",
            (text, now, checksum, row),
        )
        self._index(row, number, text)
        self._add_up(number, 0, more)
        self._book(number)
        return Note(id_, old.scope, old.kind, text, old.created_unix, now)

    def remove(self, id_: str) -> None:
        """Delete a note, also a damaged one. Raises NotFound."""
        db, row = self._db(), int(id_[1:])
        found = db.execute(_ROW + "WHERE n.id = ?", (row,)).fetchone()
        if found is None:
            raise not_found(id_)
        number, text = self._numbered(found[1]), found[3]
        self._usage(number)
        if self._note(found):
            self._unindex(row, number, text)
        db.execute("DELETE FROM notes WHERE id = ?", (row,))
        if self._note(found) is None:  # the words that it was indexed with are unknown
            db.execute("INSERT INTO words(words) VALUES('rebuild')")
        self._add_up(number, -1, -len(text.encode()))
        self._book(number)

    def clear(self, scope: str) -> int:
        """Delete all notes of a scope; return their number."""
        number = self.number(scope)
        if number is None:
            return 0
        db = self._db()
        db.execute(
            "INSERT INTO words(words, rowid, scope, text) "
            "SELECT 'delete', id, scope, text FROM notes WHERE scope = ?", (number,)
        )  # fmt: skip
        removed = db.execute("DELETE FROM notes WHERE scope = ?", (number,)).rowcount
        db.execute("DELETE FROM scopes WHERE id = ?", (number,))
        del self._scopes[scope]
        self._usages.pop(number, None)
        return removed

    def adopt_model(self, model: str) -> bool:
        """Store vectors of this model from now on, and delete those of another. Return False when
        nothing has changed for sure."""
        if model == self.model:
            return False
        found = self._db().execute("SELECT name FROM model").fetchone()
        if found != (model,):
            self._db().execute("UPDATE notes SET vector = NULL WHERE vector IS NOT NULL")
            self._db().execute("DELETE FROM model")
            self._db().execute("INSERT INTO model VALUES(?)", (model,))
        self.model = model
        return True

    def set_vectors(self, rows: Iterable[tuple[Unembedded, bytes]]) -> list[tuple[int, bytes]]:
        """Store the vectors of texts that have not changed; return these with their rows."""
        kept = []
        for (row, _, checksum), vector in rows:
            changed = self._db().execute(
                "UPDATE notes SET vector = ? WHERE id = ? AND sum = ?", (vector, row, checksum)
            )
            if changed.rowcount:
                kept.append((row, vector))
        return kept

    def _index(self, row: int, number: int, text: str) -> None:
        self._db().execute(
            "INSERT INTO words(rowid, scope, text) VALUES(?,?,?)", (row, number, text)
        )

    def _unindex(self, row: int, number: int, text: str) -> None:
        self._db().execute(
            "INSERT INTO words(words, rowid, scope, text) VALUES('delete',?,?,?)",
            (row, number, text),
        )

    # ------------------------------------------------------------------ reading

    def get(self, id_: str) -> Note:
        """Return a note. Raises NotFound, and IllegalState when it is damaged."""
        found = self._db().execute(_ROW + "WHERE n.id = ?", (int(id_[1:]),)).fetchone()
        if found is None:
            raise not_found(id_)
        note = self._note(found)
        if note is None:
            raise IllegalState(
                f"note {id_} is damaged: its checksum does not match",
                f"remove it: aios memory rm {id_}",
            )
        return note

    def page(self, scope: str, after: str | None, limit: int, log: bool) -> tuple[list[Note], bool]:
        """Return notes in order of id, and True when there are more. Damaged notes are left out."""
        number = self.number(scope)
        if number is None:
            return [], False
        kinds = "n.kind > 0" if log else "n.kind = 0"
        rows = self._db().execute(
            f"{_ROW} WHERE n.scope = ? AND n.id > ? AND {kinds} ORDER BY n.id LIMIT ?",
            (number, int(after[1:]) if after else 0, limit + 1),
        )
        notes: list[Note] = []
        size = 0
        for row in rows:
            size += len(row[3].encode())
            if len(notes) == limit or (notes and size > PAGE_BYTES):
                rows.close()
                return notes, True
            note = self._note(row)
            if note:
                notes.append(note)
        return notes, False

    def many(self, rows: Sequence[int]) -> dict[int, Note]:
        """Return notes by row. Missing and damaged notes are left out."""
        marks = ",".join("?" * len(rows))
        found = self._db().execute(f"{_ROW} WHERE n.id IN ({marks})", rows)
        notes = {row[0]: self._note(row) for row in found}
        return {row: note for row, note in notes.items() if note}

    def matches(self, query: str, scopes: Sequence[str], most: int, log: bool) -> list[int]:
        """Return the rows that have words of the query, best first by BM25."""
        match = words.match(query, "scope", self.numbers(scopes))
        if not match:
            return []
        # the interaction log is in the same index: read more rows, and leave out the log's
        found = [row for (row,) in self._db().execute(
            "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, 0.0, 1.0) LIMIT ?",
            (match, most if log else most * 4),
        )]  # fmt: skip
        kinds = {} if log else self._kinds(found)
        return [row for row in found if log or kinds.get(row) == 0][:most]

    def _kinds(self, rows: Sequence[int]) -> dict[int, int]:
        marks = ",".join("?" * len(rows))
        found = self._db().execute(f"SELECT id, kind FROM notes WHERE id IN ({marks})", rows)
        return dict(found.fetchall())

    def vectors(self, number: int) -> Iterable[tuple[int, int, bytes]]:
        """Return row, kind and vector of every note of a scope that has a vector."""
        return self._db().execute(
            "SELECT id, kind, vector FROM notes WHERE scope = ? AND vector IS NOT NULL", (number,)
        )

    def vector_count(self, number: int) -> int:
        """Return the number of a scope's notes that have a vector."""
        found = self._db().execute(
            "SELECT count(*) FROM notes WHERE scope = ? AND vector IS NOT NULL", (number,)
        )
        return int(found.fetchone()[0])

    def scope_of(self, row: int) -> tuple[int, int] | None:
        """Return the scope's number and the kind of a row."""
        found: tuple[int, int] | None = (
            self._db().execute("SELECT scope, kind FROM notes WHERE id = ?", (row,)).fetchone()
        )
        return found

    def unembedded(self, scopes: Sequence[str] | None, log: bool, most: int) -> list[Unembedded]:
        """Return texts without a vector, the latest first. ``scopes`` None: of all scopes."""
        kinds = "kind >= 0" if log else "kind = 0"
        if scopes is None:
            where, values, index = kinds, [], "notes_to_do"
        else:
            values = self.numbers(scopes)
            where = f"scope IN ({','.join('?' * len(values))}) AND {kinds}"
            index = "notes_without_vector"
        found = self._db().execute(
            f"SELECT id, text, sum FROM notes INDEXED BY {index} "
            f"WHERE vector IS NULL AND {where} "
            "ORDER BY id DESC LIMIT ?", (*values, most),
        )  # fmt: skip
        return [Unembedded(*row) for row in found]

    def pending(self, scopes: Sequence[str], log: bool) -> int:
        """Return the number of notes of these scopes that have no vector."""
        numbers = self.numbers(scopes)
        marks, kinds = ",".join("?" * len(numbers)), "kind >= 0" if log else "kind = 0"
        found = self._db().execute(
            f"SELECT count(*) FROM notes WHERE vector IS NULL AND scope IN ({marks}) AND {kinds}",
            numbers,
        )
        return int(found.fetchone()[0])

    def _note(self, row: tuple[int, str, int, str, float, float, int]) -> Note | None:
        number, scope, kind, text, created, updated, checksum = row
        if _sum(scope, kind, text) != checksum:
            return None
        return Note(self.name(number), scope, KINDS[kind], text, created, updated)

    # ------------------------------------------------------------------ checking

    def verify(self) -> tuple[int, list[str], list[str]]:
        """Return the number of notes, the ids of damaged ones, and other problems. Reads
        everything, and rebuilds an index of words that does not match the notes."""
        db = self._db()
        rows = db.execute(_ROW).fetchall()
        damaged = [self.name(row[0]) for row in rows if self._note(row) is None]
        found = [line for (line,) in db.execute("PRAGMA integrity_check(20)") if line != "ok"]
        for name, usage in self.usages().items():
            texts = [row[3] for row in rows if row[1] == name]
            held = Usage(len(texts), sum(len(text.encode()) for text in texts))
            if held != usage:
                found.append(f"scope {name} is booked with {usage}, but holds {held}")
        try:
            db.execute("INSERT INTO words(words, rank) VALUES('integrity-check', 1)")
        except sqlite3.DatabaseError as error:
            db.execute("INSERT INTO words(words) VALUES('rebuild')")
            found.append(f"the index of words did not match the notes and was rebuilt: {error}")
        return len(rows), damaged, found


def not_found(id_: str) -> NotFound:
    """Return the error for an id that names no note of the caller's."""
    return NotFound(f"there is no note {id_}", "list notes with: aios.memory.list()")


def _sum(scope: str, kind: int, text: str) -> int:
    """Return a signed 64-bit checksum."""
    unsigned = xxhash.xxh3_64_intdigest(f"{scope}\0{kind}\0{text}".encode())
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned
