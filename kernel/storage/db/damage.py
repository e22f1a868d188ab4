"""Damage in the database: how it is found, and what it stops.

SQLite finds damaged pages and indexes; checksums find damaged rows. Damage fails the calls that
touch it and no others. Only pages that SQLite could write over intact ones stop all changes.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aios.syscalls.errors import StorageDamaged

from .schema import SUMMED, row_sum

log = logging.getLogger("aios.storage")

MAX_LISTED = 100
"""Limit on damaged rows, and on damaged pages, that are listed one by one."""
_STAYS = re.compile(
    r"missing from index|wrong # of entries|non-unique entry|NULL value in|value in \w+\.\w+|"
    r"never used|btreeInitPage|unable to get the page|Extends off end|Offset \d+ out of range"
)
"""SQLite's findings on pages that it refuses to use or reads wrongly. Any other finding (pages used
twice or out of order) means that a change could overwrite an intact page."""


class Damage(NamedTuple):
    """The damage of pages, in SQLite's words, and of rows."""

    pages: list[str]
    rows: list[str]

    @property
    def problems(self) -> list[str]:
        """All findings."""
        return self.pages + self.rows

    @property
    def spreads(self) -> bool:
        """A change could damage more."""
        return any(not _STAYS.search(text) for text in self.pages)


def find_damage(connection: sqlite3.Connection) -> Damage:
    """Check pages, indexes and every row's checksum; not the content of files."""
    pages = _damaged_pages(connection)
    return Damage(pages, list(itertools.islice(damaged_rows(connection), MAX_LISTED)))


def rebuild_derived(connection: sqlite3.Connection, found: Damage) -> list[str]:
    """Rebuild what can be derived from intact rows: indexes, and reference counts that are too low.

    Returns what was done.
    """
    done = []
    try:
        if found.pages and all(" index " in text for text in found.pages) and not found.rows:
            connection.execute("REINDEX")
            done.append("indexes were damaged, and rebuilt")
        low = connection.execute(
            "UPDATE chunk SET refs = n FROM (SELECT chunk AS used, count(*) AS n FROM extent"
            " GROUP BY chunk) WHERE used = id AND refs < n"
        ).rowcount
        if low:
            done.append(f"{low} chunks had a wrong reference count: counted again")
    except sqlite3.DatabaseError as error:
        done.append(f"what is derived from rows could not be rebuilt: {error}")
    return done


def _damaged_pages(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute(f"PRAGMA integrity_check({MAX_LISTED})").fetchall()
    lines = [line for (text,) in found for line in text.splitlines()]
    return [line for line in lines if line != "ok" and not line.startswith("***")]


def damaged_rows(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield a line for each row whose checksum does not match."""
    for table, columns in SUMMED.items():
        try:
            for *values, found in connection.execute(f"SELECT {columns}, sum FROM {table}"):
                if row_sum(*values) != found:
                    yield f"{table} row {_brief(values)}: its checksum does not match"
        except sqlite3.DatabaseError as error:
            yield f"table {table} cannot be read to its end: {error}"


def _brief(values: list[object]) -> str:
    return ", ".join(repr(value)[:40] for value in values[:4])


class CleanMark:
    """A file next to the database which says that it was checked and closed cleanly. While nothing
    has touched the database since, the next start need not check all of it."""

    def __init__(self, database: Path) -> None:
        self._database, self._path = database, database.with_suffix(".clean")

    def leave(self) -> None:
        """Mark the closed database as clean. Raises OSError."""
        changed_ns = self._database.stat().st_mtime_ns
        os.utime(self._database, ns=(changed_ns, changed_ns - 10**9))  # any write after this shows
        self._path.write_text(self._state())

    def take(self) -> bool:
        """Remove the mark; True when the database is as the mark says. A kill leaves no mark."""
        try:
            left = self._path.read_text("ascii", "replace")
            self._path.unlink()
            log_left = self._database.with_name(f"{self._database.name}-wal").exists()
            return not log_left and left == self._state()
        except OSError:
            return False

    def _state(self) -> str:
        found = self._database.stat()
        return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


class KnownDamage:
    """Damage met so far, in the order found. Used in the kernel's thread."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    @property
    def lines(self) -> list[str]:
        """One line for each finding; calls add up to MAX_LISTED."""
        return list(self._lines)

    def found(self, lines: Sequence[str]) -> None:
        """Set what opening found, which it has logged."""
        self._lines = dict.fromkeys(lines)

    def met(self, error: StorageDamaged) -> None:
        """Add what a call has met."""
        if error.message not in self._lines and len(self._lines) < MAX_LISTED:
            log.error("storage is damaged: %s", error.message)
            self._lines[error.message] = None

    def repaired(self) -> None:
        """Forget everything: it has been repaired."""
        self._lines.clear()
