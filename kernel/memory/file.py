"""The file that notes are in: one SQLite connection, its transactions, and its errors.

The lasting file acknowledges what is on the disk (WAL, synchronous FULL). The sessions' file never
waits for the disk, and no later kernel reads it. No other process can open either file while it is
open here. An error of SQLite leaves here as an AiosError that names the file and what to do.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from aios.kernel.loop.clock import Clock
from aios.syscalls.errors import IllegalState, InvalidArgument, ResourceExhausted

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
"""Since format 2, a scope is booked with its notes up to an id; later ones are counted on top."""


def lasting(scope: str) -> bool:
    """Return True when the notes of a scope, named in full, outlive their agent."""
    return not scope.startswith("session:")


class NotesFile:
    """A file that its first use opens. Unless it is ``lasting``, closing it removes it."""

    model: str | None
    """The model of its vectors, if known."""

    def __init__(self, path: Path, *, lasting: bool, clock: Clock | None = None) -> None:
        self.path, self.lasting, self._clock = path, lasting, clock or Clock()
        self._open: sqlite3.Connection | None = None
        self._forget()

    def _forget(self) -> None:
        """Forget what is known of its contents."""
        self.model = None

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
            # no second connection: this SQLite version can damage the WAL of a file with two
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
        """Close the file. Remove the sessions' file, and its folder if it is empty. The next use
        opens the file again."""
        if self._open:
            self._open.close()
            self._open = None
        if not self.lasting:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()

    def doing(self, work: Callable[[], T], *, soft: bool = False) -> T:
        """Do some work as one transaction. ``soft``: do not wait for the disk, because the work can
        be done again. Raises AiosError for errors of SQLite."""
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
                self._forget()
                raise
            return result
        except (sqlite3.Error, OSError) as error:
            raise self._typed(error) from None

    def _softly(self, work: Callable[[], T]) -> T:
        try:
            self._db().execute("PRAGMA synchronous = NORMAL")
        except (sqlite3.Error, OSError) as error:
            raise self._typed(error) from None
        try:
            return self.doing(work)
        finally:
            self._db().execute("PRAGMA synchronous = FULL")

    def reading(self, work: Callable[[], T]) -> T:
        """Do some work that changes nothing. Raises AiosError for errors of SQLite."""
        try:
            self._db()
            return work()
        except (sqlite3.Error, OSError) as error:
            raise self._typed(error) from None

    def _typed(self, error: sqlite3.Error | OSError) -> ResourceExhausted | IllegalState:
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
                "end the kernel and restore a copy: aios memory restore FILE; session memory "
                "still works",
            )
        return IllegalState(f"memory in {self.path} fails: {error}", "see: aios memory check")

    def backup(self, path: Path) -> None:
        """Copy one consistent state to a file that ``new_file`` has made. Raises ResourceExhausted
        when there is no room for it."""
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
    """Create an empty file. Raises InvalidArgument when it exists or cannot be created."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise InvalidArgument(f"{path} exists", "name a new file") from None
    except OSError as error:
        raise InvalidArgument(
            f"{path} cannot be made: {error.strerror}", "name a new file elsewhere"
        ) from None
    os.close(fd)
