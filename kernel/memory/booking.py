"""Accounts of scopes: notes and bytes, booked in the notes' file and checked against quotas.

Used by the worker's thread, inside ``doing`` or ``reading``.
"""

from __future__ import annotations

from collections.abc import Sequence

from .file import NotesFile
from .quota import Limits, Usage, check_quota

_BOOK_EVERY = 64
"""Notes between two bookings of a scope that only grows; the file of a killed kernel has about as
many to count when it is opened."""
_PREFIXES = {True: "n", False: "s"}


class BookedFile(NotesFile):
    """A notes file that knows the numbers of its scopes, and what these hold."""

    _scopes: dict[str, int]
    _usages: dict[int, Usage]
    """By number of the scope, as far as they were needed."""

    def _forget(self) -> None:
        super()._forget()
        self._scopes, self._usages = {}, {}

    def name(self, row: int) -> str:
        """Return the id of a row's note."""
        return f"{_PREFIXES[self.lasting]}{row}"

    def number(self, scope: str) -> int | None:
        """Return a scope's number; None when it holds nothing."""
        if scope not in self._scopes:
            found = self._db().execute("SELECT id FROM scopes WHERE name = ?", (scope,)).fetchone()
            if found is None:
                return None
            self._scopes[scope] = found[0]
        return self._scopes[scope]

    def numbers(self, scopes: Sequence[str]) -> list[int]:
        """Return the numbers of those scopes that hold something."""
        return [number for scope in scopes if (number := self.number(scope)) is not None]

    def _numbered(self, scope: str) -> int:
        """Return a scope's number; give it one if it has none."""
        known = self.number(scope)
        if known is None:
            known = self._db().execute("INSERT INTO scopes(name) VALUES(?)", (scope,)).lastrowid
            assert known is not None
            self._scopes[scope] = known
        return known

    def usage(self, scope: str) -> Usage:
        """Return what a scope holds."""
        number = self.number(scope)
        return self._usage(number) if number is not None else Usage(0, 0)

    def usages(self) -> dict[str, Usage]:
        """Return what each scope holds."""
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

    def _add_up(self, number: int, notes: int, size: int) -> None:
        held = self._usages[number]
        self._usages[number] = Usage(held.notes + notes, held.size_bytes + size)

    def _book_sometimes(self, number: int, row: int) -> None:
        """Book a scope that has got a note: at every 64th row, since those behind the booking are
        counted."""
        if row % _BOOK_EVERY == 0:
            self._book(number)

    def _book(self, number: int) -> None:
        """Write what a scope holds."""
        self._db().execute(
            "UPDATE scopes SET notes = ?, bytes = ?,"
            " upto = (SELECT coalesce(max(id), 0) FROM notes WHERE scope = ?) WHERE id = ?",
            (*self._usages[number], number, number),
        )

    def _admit(self, scope: str, number: int, limits: Limits, notes: int, size: int) -> None:
        """Raise ResourceExhausted when these notes and bytes, added, exceed the limits."""
        usage = self._usage(number)
        oldest = self._db().execute(
            "SELECT id FROM notes WHERE scope = ? ORDER BY id LIMIT 1", (number,)
        ).fetchone() if usage.notes + notes > limits.notes else None  # fmt: skip
        check_quota(scope, usage, limits, notes, size, self.name(oldest[0]) if oldest else "")
