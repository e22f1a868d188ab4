"""Notes in SQLite: the rows of one file, used by the worker's thread only.

Each row has a checksum of its text and scope; one that does not fit is told, never returned.
Quotas are checked in the transaction that adds. Words are indexed by FTS5 beside the scope, so a
search reads only its own scopes.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import xxhash

from aios.syscalls.errors import IllegalState, NotFound
from aios.syscalls.types.memory import Note, NoteKind

from .file import NotesFile
from .quota import Limits, Usage, check_quota

MOST_TERMS = 24
"""Of a query; the longest words are the most telling."""
PAGE_BYTES = 4 << 20
_BOOK_EVERY = 64
"""Notes: about so many are counted when a file is opened that was not closed."""
KINDS: tuple[NoteKind, ...] = ("note", "prompt", "reply")
_PREFIXES = {True: "n", False: "s"}
_ROW = "SELECT n.id, s.name, n.kind, n.text, n.created, n.updated, n.sum FROM notes n " \
       "JOIN scopes s ON s.id = n.scope "  # fmt: skip


class Unembedded(NamedTuple):
    """A text whose vector is missing; ``sum`` tells whether it has changed meanwhile."""

    row: int
    text: str
    sum: int


class NoteStore(NotesFile):
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
        """A new note, under ``row`` and of the time when they are given. Raises
        ResourceExhausted."""
        number = self._scope_number(scope)
        self._usage(number)
        size, code = len(text.encode()), KINDS.index(kind)
        now = time.time() if now is None else now
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
        if row % _BOOK_EVERY == 0:
            self._book(number)
        return Note(self.name(row), scope, kind, text, now, now)

    def update(self, id_: str, text: str, limits: Limits | None) -> Note:
        """Another text. Raises NotFound, ResourceExhausted."""
        old = self.get(id_)
        row, number, now = int(id_[1:]), self._scope_number(old.scope), time.time()
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
        """Delete it. Raises NotFound. A damaged one can be removed, too."""
        db, row = self._db(), int(id_[1:])
        found = db.execute(_ROW + "WHERE n.id = ?", (row,)).fetchone()
        if found is None:
            raise not_found(id_)
        number, text = self._scope_number(found[1]), found[3]
        self._usage(number)
        if self._note(found):
            self._unindex(row, number, text)
        db.execute("DELETE FROM notes WHERE id = ?", (row,))
        if self._note(found) is None:  # the words that it was indexed with are not known any more
            db.execute("INSERT INTO words(words) VALUES('rebuild')")
        self._add_up(number, -1, -len(text.encode()))
        self._book(number)

    def clear(self, scope: str) -> int:
        """Delete all of a scope; how many."""
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
        """Vectors are of this model from now on; those of another are void. Whether there may
        have been some."""
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
        """Keep vectors of texts that have not changed; returns those that were kept."""
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

    def _add_up(self, number: int, notes: int, size: int) -> None:
        held = self._usages[number]
        self._usages[number] = Usage(held.notes + notes, held.size_bytes + size)

    def _book(self, number: int) -> None:
        """Write what a scope holds. An added note can do without: it is behind what was booked."""
        self._db().execute(
            "UPDATE scopes SET notes = ?, bytes = ?,"
            " upto = (SELECT coalesce(max(id), 0) FROM notes WHERE scope = ?) WHERE id = ?",
            (*self._usages[number], number, number),
        )

    def _admit(self, scope: str, number: int, limits: Limits, notes: int, size: int) -> None:
        usage = self._usage(number)
        oldest = self._db().execute(
            "SELECT id FROM notes WHERE scope = ? ORDER BY id LIMIT 1", (number,)
        ).fetchone() if usage.notes + notes > limits.notes else None  # fmt: skip
        check_quota(scope, usage, limits, notes, size, self.name(oldest[0]) if oldest else "")

    # ------------------------------------------------------------------ reading

    def name(self, row: int) -> str:
        """The id of a row."""
        return f"{_PREFIXES[self.lasting]}{row}"

    def get(self, id_: str) -> Note:
        """Raises NotFound, and IllegalState when it is damaged."""
        found = self._db().execute(_ROW + "WHERE n.id = ?", (int(id_[1:]),)).fetchone()
        if found is None:
            raise not_found(id_)
        note = self._note(found)
        if note is None:
            raise IllegalState(
                f"note {id_} is damaged: its checksum does not fit",
                f"remove it: aios memory rm {id_}",
            )
        return note

    def page(self, scope: str, after: str | None, limit: int, log: bool) -> tuple[list[Note], bool]:
        """Notes in order of id, and whether there are more. Damaged ones are left out."""
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
        """Notes by row; those that are gone or damaged are left out."""
        marks = ",".join("?" * len(rows))
        found = self._db().execute(f"{_ROW} WHERE n.id IN ({marks})", rows)
        notes = {row[0]: self._note(row) for row in found}
        return {row: note for row, note in notes.items() if note}

    def matches(
        self, query: str, scopes: Sequence[str], most: int, log: bool
    ) -> list[tuple[int, float]]:
        """Rows that have words of the query, best first, with their bm25 score (higher: better)."""
        terms, numbers = terms_of(query), self._numbers(scopes)
        if not terms or not numbers:
            return []
        where = " OR ".join(f'"{number}"' for number in numbers)
        words = " OR ".join(f'"{term}"' for term in terms)
        match = f"(scope : ({where})) AND (text : ({words}))"
        # the log's entries are among the notes: more are asked for, and those left out
        some = most if log else most * 4
        found = self._db().execute(
            "SELECT rowid, bm25(words, 0.0, 1.0) AS score FROM words WHERE words MATCH ? "
            "ORDER BY score LIMIT ?", (match, some),
        ).fetchall()  # fmt: skip
        kinds = {} if log else self._kinds([row for row, _ in found])
        return [(row, -score) for row, score in found if log or kinds.get(row) == 0][:most]

    def _kinds(self, rows: Sequence[int]) -> dict[int, int]:
        marks = ",".join("?" * len(rows))
        found = self._db().execute(f"SELECT id, kind FROM notes WHERE id IN ({marks})", rows)
        return dict(found.fetchall())

    def _numbers(self, scopes: Sequence[str]) -> list[int]:
        return [number for scope in scopes if (number := self.number(scope)) is not None]

    def vectors(self, number: int) -> Iterable[tuple[int, int, bytes]]:
        """Row, kind and vector of every note of a scope that has one."""
        return self._db().execute(
            "SELECT id, kind, vector FROM notes WHERE scope = ? AND vector IS NOT NULL", (number,)
        )

    def scope_of(self, row: int) -> tuple[int, int] | None:
        """Scope number and kind of a row."""
        found: tuple[int, int] | None = (
            self._db().execute("SELECT scope, kind FROM notes WHERE id = ?", (row,)).fetchone()
        )
        return found

    def unembedded(self, scopes: Sequence[str] | None, log: bool, most: int) -> list[Unembedded]:
        """Texts without a vector, the latest first; of all scopes when None."""
        kinds = "kind >= 0" if log else "kind = 0"
        if scopes is None:
            where, values, index = kinds, [], "notes_to_do"
        else:
            values = self._numbers(scopes)
            where = f"scope IN ({','.join('?' * len(values))}) AND {kinds}"
            index = "notes_without_vector"
        found = self._db().execute(
            f"SELECT id, text, sum FROM notes INDEXED BY {index} "
            f"WHERE vector IS NULL AND {where} "
            "ORDER BY id DESC LIMIT ?", (*values, most),
        )  # fmt: skip
        return [Unembedded(*row) for row in found]

    def pending(self, scopes: Sequence[str], log: bool) -> int:
        """How many notes of these scopes have no vector."""
        numbers = self._numbers(scopes)
        marks, kinds = ",".join("?" * len(numbers)), "kind >= 0" if log else "kind = 0"
        found = self._db().execute(
            f"SELECT count(*) FROM notes WHERE vector IS NULL AND scope IN ({marks}) AND {kinds}",
            numbers,
        )
        return int(found.fetchone()[0])

    def usage(self, scope: str) -> Usage:
        """What a scope holds."""
        number = self.number(scope)
        return self._usage(number) if number is not None else Usage(0, 0)

    def usages(self) -> dict[str, Usage]:
        """What each scope holds."""
        rows = self._db().execute("SELECT name, id FROM scopes").fetchall()
        found = {name: self._usage(number) for name, number in rows}
        return {name: usage for name, usage in found.items() if usage.notes}

    def _usage(self, number: int) -> Usage:
        known = self._usages.get(number)
        if known is None:
            notes, size, upto = self._db().execute(
                "SELECT notes, bytes, upto FROM scopes WHERE id = ?", (number,)
            ).fetchone()  # fmt: skip
            more, more_bytes = self._db().execute(
                "SELECT count(*), coalesce(sum(length(CAST(text AS BLOB))), 0) FROM notes"
                " WHERE scope = ? AND id > ?", (number, upto),
            ).fetchone()  # fmt: skip
            known = self._usages[number] = Usage(notes + more, size + more_bytes)
        return known

    def _note(self, row: tuple[int, str, int, str, float, float, int]) -> Note | None:
        number, scope, kind, text, created, updated, checksum = row
        if _sum(scope, kind, text) != checksum:
            return None
        return Note(self.name(number), scope, KINDS[kind], text, created, updated)

    # ------------------------------------------------------------------ looking after it

    def verify(self) -> tuple[int, list[str], list[str]]:
        """Notes, ids of damaged ones, and what else is wrong. Reads everything; an index of words
        that does not fit the notes is made anew."""
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
            found.append(f"the index of words did not fit the notes, and was made anew: {error}")
        return len(rows), damaged, found


def not_found(id_: str) -> NotFound:
    """The error for an id that means nothing to the caller."""
    return NotFound(f"there is no note {id_}", "list notes with: aios.memory.list()")


def terms_of(query: str) -> list[str]:
    """The words of a query that are looked for."""
    words = list(dict.fromkeys(re.findall(r"\w+", query.lower())))
    if len(words) > MOST_TERMS:
        words = sorted(words, key=len, reverse=True)[:MOST_TERMS]
    return words


def _sum(scope: str, kind: int, text: str) -> int:
    """A signed 64-bit checksum."""
    unsigned = xxhash.xxh3_64_intdigest(f"{scope}\0{kind}\0{text}".encode())
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned
