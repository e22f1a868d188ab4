"""The file that notes are in: one connection of SQLite, its transactions, and its errors.

A lasting file acknowledges what is on the disk (WAL, synchronous FULL); a session's is a file that
no kernel reads again, and never waits for the disk. No other process may open either while it is
open here. What SQLite raises leaves here as an AiosError that names the file and what to do.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from aios.syscalls.errors import IllegalState, InvalidArgument, ResourceExhausted

from .quota import Usage

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS scopes(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    notes INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    upto INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS notes(
    id INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL, kind INTEGER NOT NULL,
    text TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL, sum INTEGER NOT NULL,
    vector BLOB);
CREATE INDEX IF NOT EXISTS notes_by_scope ON notes(scope, id);
CREATE INDEX IF NOT EXISTS notes_without_vector ON notes(scope, kind, id) WHERE vector IS NULL;
CREATE INDEX IF NOT EXISTS notes_to_do ON notes(kind, id) WHERE vector IS NULL;
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    scope, text, content='notes', content_rowid='id', tokenize='porter unicode61');
CREATE TABLE IF NOT EXISTS model(name TEXT NOT NULL);
PRAGMA user_version = 2;
"""
_FROM_1 = """
BEGIN IMMEDIATE;
ALTER TABLE scopes ADD COLUMN upto INTEGER NOT NULL DEFAULT 0;
UPDATE scopes SET upto = (SELECT coalesce(max(id), 0) FROM notes);
PRAGMA user_version = 2;
COMMIT;
"""
"""What a scope is booked with is of its notes up to an id; those behind it come on top."""


def lasting(scope: str) -> bool:
    """Whether a scope, named in full, is of the lasting store."""
    return not scope.startswith("session:")


class NotesFile:
    """Opened by its first use. ``lasting``: for good; else it goes when it is closed."""

    def __init__(self, path: Path, *, lasting: bool) -> None:
        self.path, self.lasting = path, lasting
        self._open: sqlite3.Connection | None = None
        self._scopes: dict[str, int] = {}
        self._usages: dict[int, Usage] = {}
        """What scopes hold, by number, as far as it has been needed."""
        self.model: str | None = None
        """Whose vectors these are, as far as is known."""

    def _db(self) -> sqlite3.Connection:
        if self._open is None:
            self._open = self._connect()
        return self._open

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.lasting:
            self.path.unlink(missing_ok=True)
        db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=0)
        try:
            # nobody else may open it: this SQLite can damage a WAL that has two connections
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute(f"PRAGMA journal_mode = {'WAL' if self.lasting else 'MEMORY'}")
            db.execute(f"PRAGMA synchronous = {'FULL' if self.lasting else 'OFF'}")
            db.execute("PRAGMA cache_size = -16384")
            if db.execute("PRAGMA user_version").fetchone()[0] == 1:
                db.executescript(_FROM_1)
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        self.path.chmod(0o600)
        return db

    def close(self) -> None:
        """Close the file; a session's is removed, with its folder if nothing else is in it. The
        next use opens it anew."""
        if self._open:
            self._open.close()
            self._open = None
        if not self.lasting:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()

    def doing(self, work: Callable[[], T], *, soft: bool = False) -> T:
        """Some work on it as one transaction; what SQLite raises becomes an AiosError. ``soft``:
        what can be done again, so that it need not wait for the disk."""
        if soft and self.lasting:
            return self._softly(work)
        try:
            db = self._db()
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                self._scopes.clear()
                self._usages.clear()
                self.model = None
                raise
            return result
        except (sqlite3.Error, OSError) as error:
            raise self._told(error) from None

    def _softly(self, work: Callable[[], T]) -> T:
        try:
            self._db().execute("PRAGMA synchronous = NORMAL")
        except (sqlite3.Error, OSError) as error:
            raise self._told(error) from None
        try:
            return self.doing(work)
        finally:
            self._db().execute("PRAGMA synchronous = FULL")

    def reading(self, work: Callable[[], T]) -> T:
        """Some work that changes nothing."""
        try:
            self._db()
            return work()
        except (sqlite3.Error, OSError) as error:
            raise self._told(error) from None

    def _told(self, error: sqlite3.Error | OSError) -> ResourceExhausted | IllegalState:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL" or isinstance(error, OSError):
            reason = error.strerror if isinstance(error, OSError) else "the disk is full"
            return ResourceExhausted(
                f"memory cannot be written to {self.path}: {reason}", "make room there, try again"
            )
        if name == "SQLITE_BUSY":
            return IllegalState(
                f"{self.path} is in use by another kernel",
                "end it, or give this one a folder of its own: XDG_DATA_HOME",
            )
        if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB") or name.startswith("SQLITE_CORRUPT"):
            return IllegalState(
                f"the notes in {self.path} are damaged: {error}",
                "end the kernel and put back a copy: aios memory restore FILE; session memory "
                "works on",
            )
        return IllegalState(f"memory in {self.path} fails: {error}", "look into: aios memory check")

    def _scope_number(self, name: str) -> int:
        """A scope's number, given to it now if it has none."""
        known = self.number(name)
        if known is None:
            known = self._db().execute("INSERT INTO scopes(name) VALUES(?)", (name,)).lastrowid
            assert known is not None
            self._scopes[name] = known
        return known

    def number(self, name: str) -> int | None:
        """A scope's number, None when it holds nothing."""
        if name not in self._scopes:
            found = self._db().execute("SELECT id FROM scopes WHERE name = ?", (name,)).fetchone()
            if found is None:
                return None
            self._scopes[name] = found[0]
        return self._scopes[name]

    def backup(self, path: Path) -> None:
        """Copy it, as one consistent state, to a file that ``new_file`` has made. Raises
        ResourceExhausted when there is no room for it."""
        copy = sqlite3.connect(path)
        try:
            self._db().backup(copy)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
                raise ResourceExhausted(
                    f"there is no room for {path}", "make room there, or name a file elsewhere"
                ) from None
            raise
        finally:
            copy.close()


def new_file(path: Path) -> None:
    """Make an empty file. Raises InvalidArgument when there is one, or it cannot be made."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise InvalidArgument(f"{path} exists", "name a new file") from None
    except OSError as error:
        raise InvalidArgument(
            f"{path} cannot be made: {error.strerror}", "name a new file elsewhere"
        ) from None
    os.close(fd)
