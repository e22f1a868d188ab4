"""The one connection that writes, its thread, and the commits: several changes, one fsync.

Changes that wait while a commit is under way share the next one. Each is a savepoint of its own,
so one that fails undoes itself alone. Outcomes are handed back when the commit is on the disk, and
not before: what a caller has been told survives the kernel. Views run between commits and see only
what is committed.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from aios.syscalls.errors import AiosError, DiskFull, StorageDamaged, StorageUnavailable

from .loop import Loop
from .storage_schema import RESTORE_HINT, Lock, open_database
from .worker import Outcome, Worker

log = logging.getLogger("aios.storage")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Done = Callable[[Outcome[T]], None]

MOST_IN_A_COMMIT = 256


class _Waiting(NamedTuple, Generic[T]):
    change: Work[T]
    done: Done[T]


class Opened(NamedTuple):
    """What opening found. ``boot``: how often it has been opened, this time included.
    ``urls``: of the stores by number; '' is the folder beside the database."""

    boot: int
    store: int
    urls: dict[int, str]


class Committer:
    """Owns meta.db. ``failure`` is why it cannot be used; None while it can."""

    def __init__(self, loop: Loop, folder: Path, url: str) -> None:
        self._path, self._url = folder / "meta.db", url
        self._worker = Worker(loop, "storage")
        self._waiting: deque[_Waiting[Any]] = deque()
        self._connection: sqlite3.Connection | None = None
        self._lock: Lock | None = None
        self.failure: AiosError | None = None

    @property
    def path(self) -> Path:
        """Of the database."""
        return self._path

    def open(self, done: Done[Opened]) -> None:
        """Check and open; what is submitted meanwhile waits. When it fails, all of that fails."""
        self._worker.submit(self._open, done)

    def _open(self) -> Opened:
        try:
            if self._lock is None:
                self._lock = Lock(self._path.parent)
            self._connection = open_database(self._path)
            return self._register()
        except (sqlite3.Error, OSError) as error:
            self.failure = StorageUnavailable(f"cannot open {self._path}: {error}")
        except AiosError as error:
            self.failure = error
        raise self.failure

    def _register(self) -> Opened:
        assert self._connection
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        run("INSERT OR IGNORE INTO store(url) VALUES (?)", (self._url,))
        run("INSERT INTO meta VALUES ('boot', 1)"
            " ON CONFLICT(key) DO UPDATE SET value = value + 1")  # fmt: skip
        run("COMMIT")
        urls = dict(run("SELECT id, url FROM store").fetchall())
        store = next(number for number, url in urls.items() if url == self._url)
        boot = run("SELECT value FROM meta WHERE key = 'boot'").fetchone()[0]
        return Opened(boot, store, urls)

    def view(self, work: Work[T], done: Done[T]) -> None:
        """Read what is committed."""

        def job() -> T:
            if self._connection is None:
                raise self.failure or StorageUnavailable("storage is closed")
            try:
                return work(self._connection)
            except sqlite3.Error as error:
                raise self._typed(error) from None

        self._worker.submit(job, done)

    def change(self, change: Work[T], done: Done[T]) -> None:
        """Change something; ``done`` when it is on the disk, or was undone."""
        self._waiting.append(_Waiting(change, done))
        self._worker.submit(self._commit, _hand_back)

    def close(self) -> None:
        """Finish what was submitted, write the log back, and let others have the folder."""
        self._worker.submit(self._close, lambda _: None)
        self._worker.close()

    def _close(self) -> None:
        if self._connection:
            try:
                self._connection.execute("PRAGMA optimize")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._connection.close()
            except sqlite3.Error as error:
                log.error("storage did not close cleanly: %s", error)
        if self._lock:
            self._lock.close()

    # ------------------------------------------------------------------ in the thread

    def _commit(self) -> list[tuple[Done[Any], Outcome[Any]]]:
        batch: list[_Waiting[Any]] = []
        while self._waiting and len(batch) < MOST_IN_A_COMMIT:
            batch.append(self._waiting.popleft())
        if self._connection is None or self.failure:
            failure = self.failure or StorageUnavailable("storage is closed")
            return [(waiting.done, Outcome(None, failure)) for waiting in batch]
        if not batch:
            return []
        try:
            return self._run(self._connection, batch)
        except sqlite3.Error as error:
            typed = self._typed(error)
            self._undo(self._connection)
            return [(waiting.done, Outcome(None, typed)) for waiting in batch]

    def _run(
        self, connection: sqlite3.Connection, batch: list[_Waiting[Any]]
    ) -> list[tuple[Done[Any], Outcome[Any]]]:
        outcomes: list[Outcome[Any]] = []
        connection.execute("BEGIN IMMEDIATE")
        for waiting in batch:
            alone = len(batch) == 1
            if not alone:
                connection.execute("SAVEPOINT one")
            try:
                outcomes.append(Outcome(waiting.change(connection), None))
            except sqlite3.Error:
                raise  # of the disk, not of this change: nothing of the batch is safe
            except Exception as error:
                if alone:
                    connection.execute("ROLLBACK")
                    return [(waiting.done, Outcome(None, error))]
                connection.execute("ROLLBACK TO one")
                outcomes.append(Outcome(None, error))
            if not alone:
                connection.execute("RELEASE one")
        connection.execute("COMMIT")
        return [(w.done, outcome) for w, outcome in zip(batch, outcomes, strict=True)]

    def _undo(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.failure = StorageUnavailable(
                f"{self._path}: a failed change could not be undone: {error}",
                "start the kernel again: aios daemon restart",
            )

    def _typed(self, error: sqlite3.Error) -> AiosError:
        """SQLite's errors as ours. One of input or output at a commit stops all changes: what the
        disk has is unknown until it is opened anew."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        log.error("%s: %s", self._path, error)
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(
                f"there is no room for {self._path}: nothing was changed",
                "make room on that disk; reading goes on meanwhile",
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StorageDamaged(f"{self._path}: {error}", RESTORE_HINT)
        failure = StorageUnavailable(
            f"{self._path}: {error}", "when the disk is well again: aios daemon restart"
        )
        if code == sqlite3.SQLITE_IOERR:
            self.failure = failure
        return failure


def _hand_back(outcome: Outcome[list[tuple[Done[Any], Outcome[Any]]]]) -> None:
    for done, one in outcome.result():
        done(one)
