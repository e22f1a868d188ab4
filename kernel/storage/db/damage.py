"""What of the database is not what was written, and what that stops.

SQLite finds damaged pages and indexes, checksums find damaged rows. What is damaged fails those who
touch it; all else goes on. Only pages that SQLite could write over what is whole stop all changes.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aios.syscalls.errors import StorageDamaged

from .schema import SUMMED, row_sum

log = logging.getLogger("aios.storage")

MOST_TOLD = 100
"""Damaged rows, and pages, that are told one by one."""
_STAYS = re.compile(
    r"missing from index|wrong # of entries|non-unique entry|NULL value in|value in \w+\.\w+|"
    r"never used|btreeInitPage|unable to get the page|Extends off end|Offset \d+ out of range"
)
"""Findings of SQLite on pages that it refuses to use, or only reads wrongly. Any other means that
a change could be written over what is whole: pages that are used twice, or are out of order."""


class Damage(NamedTuple):
    """What is wrong with pages, as SQLite tells it, and with rows."""

    pages: list[str]
    rows: list[str]

    @property
    def problems(self) -> list[str]:
        """All of it."""
        return self.pages + self.rows

    @property
    def spreads(self) -> bool:
        """A change could make more of it."""
        return any(not _STAYS.search(text) for text in self.pages)


def damage(connection: sqlite3.Connection) -> Damage:
    """Look at all but content: pages, indexes, every row's checksum."""
    pages = _damaged_pages(connection)
    return Damage(pages, list(itertools.islice(damaged_rows(connection), MOST_TOLD)))


def mend_derived(connection: sqlite3.Connection, found: Damage) -> list[str]:
    """Make anew what follows from rows that are whole, so that nothing acts on it when it is wrong:
    indexes, and counts of uses, which must not be too low. Returns what was done."""
    done = []
    try:
        if found.pages and all(" index " in text for text in found.pages) and not found.rows:
            connection.execute("REINDEX")
            done.append("indexes were damaged, and made anew")
        low = connection.execute(
            "UPDATE chunk SET refs = n FROM (SELECT chunk AS used, count(*) AS n FROM extent"
            " GROUP BY chunk) WHERE used = id AND refs < n"
        ).rowcount
        if low:
            done.append(f"{low} pieces of content had a wrong count of uses: counted anew")
    except sqlite3.DatabaseError as error:
        done.append(f"what follows from the rows could not be made anew: {error}")
    return done


def _damaged_pages(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute(f"PRAGMA integrity_check({MOST_TOLD})").fetchall()
    lines = [line for (text,) in found for line in text.splitlines()]
    return [line for line in lines if line != "ok" and not line.startswith("***")]


def damaged_rows(connection: sqlite3.Connection) -> Iterator[str]:
    """Every row that is not what was written."""
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
    """A file beside the database: it was closed well, and looked at before. While the database is
    as it was then, the next start need not look at all of it again."""

    def __init__(self, database: Path) -> None:
        self._database, self._path = database, database.with_suffix(".clean")

    def leave(self) -> None:
        """The database is closed. Raises OSError."""
        now = time.time_ns()
        os.utime(self._database, ns=(now, now - 10**9))  # a write at this very moment shows, too
        self._path.write_text(self._state())

    def take(self) -> bool:
        """Whether nothing has touched it since; a kill leaves no mark behind."""
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
    """What has been met, in the order it was found; in the kernel's thread."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    @property
    def lines(self) -> list[str]:
        """One for each place; at most MOST_TOLD that calls have met."""
        return list(self._lines)

    def found(self, lines: Sequence[str]) -> None:
        """At the start, and logged there."""
        self._lines = dict.fromkeys(lines)

    def met(self, error: StorageDamaged) -> None:
        """By a call."""
        if error.message not in self._lines and len(self._lines) < MOST_TOLD:
            log.error("storage is damaged: %s", error.message)
            self._lines[error.message] = None

    def mended(self) -> None:
        """All that could be found."""
        self._lines.clear()
