"""The one writing connection, its thread, and group commit: several changes, one fsync.

Changes that wait while a commit is under way share the next one. Each is a savepoint, so a change
that fails is undone alone. A promise is settled when the commit is on the disk, not before: what a
caller has been told survives the kernel. Reads run between commits and see only what is committed.
Damage fails the calls that touch it. Only damage that a change could spread stops all changes, and
only a database that SQLite cannot use stops everything.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, Promise
from aios.kernel.loop.worker import Worker
from aios.syscalls.errors import AiosError, DiskFull, StorageDamaged, StorageUnavailable

from .damage import CleanMark, find_damage, rebuild_derived
from .schema import FILE_HINT, RESTORE_HINT, Lock, open_database

log = logging.getLogger("aios.storage")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

MAX_CHANGES = 256
"""Limit on changes per commit."""
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT)
"""A violated constraint means that rows are not what was written."""
_LOCAL = (*_DAMAGE, sqlite3.SQLITE_IOERR)
"""Errors that may concern only one change of several."""


class _Change(NamedTuple, Generic[T]):
    work: Work[T]
    promise: Promise[T]
    name: str


class Opened(NamedTuple):
    """The result of opening. ``boot`` counts the starts, this one included; ``urls`` are the blob
    stores by number, where '' is the local folder."""

    boot: int
    store: int
    urls: dict[int, str]
    damage: list[str]


class Committer:
    """Owns meta.db. ``failure`` says why it cannot be used, ``refusal`` why it cannot be changed;
    both are None while all is well.

    The ``name`` of what is read or changed appears in the error when that is damaged.
    """

    def __init__(self, loop: Loop, folder: Path, url: str) -> None:
        self.path, self._url = folder / "meta.db", url
        self._worker = Worker(loop, "storage")
        self._waiting: deque[_Change[Any]] = deque()
        self._connection: sqlite3.Connection | None = None
        self._lock: Lock | None = None
        self._clean = CleanMark(self.path)
        self._suspect = False
        """Damage was met: the next start checks the whole database."""
        self.failure: AiosError | None = None
        self.refusal: AiosError | None = None

    def open(self) -> Promise[Opened]:
        """Check and open. What is submitted meanwhile waits, and fails if opening fails."""
        return self._worker.run(self._open)

    def read(self, work: Work[T], name: str = "") -> Promise[T]:
        """Read what is committed."""

        def job() -> T:
            if self._connection is None:
                raise self.failure or StorageUnavailable("storage is closed")
            try:
                return work(self._connection)
            except sqlite3.Error as error:
                raise self._typed(error, name) from None
            except StorageDamaged:
                self._suspect = True
                raise

        return self._worker.run(job)

    def change(self, work: Work[T], name: str = "") -> Promise[T]:
        """Change something. The promise is settled when the change is on the disk or undone; a
        change that was undone may be tried a second time."""
        promise: Promise[T] = Promise()
        self._waiting.append(_Change(work, promise, name))
        self._worker.submit(self._commit, _settle)
        return promise

    def close(self) -> None:
        """Finish what was submitted, write the log back, and unlock the folder."""
        self._worker.submit(self._close, lambda _: None)
        self._worker.close()

    # ------------------------------------------------------------------ in the thread: open, close

    def _open(self) -> Opened:
        try:
            if self._lock is None:
                self._lock = Lock(self.path.parent)
            clean = self._clean.take()
            self._connection = open_database(self.path)
            return self._register(self._connection, []) if clean else self._look(self._connection)
        except sqlite3.Error as error:
            self.failure = self._typed(error)
        except OSError as error:
            self.failure = StorageUnavailable(f"cannot open {self.path}: {error}")
        except AiosError as error:
            self.failure = error
        raise self.failure

    def _look(self, connection: sqlite3.Connection) -> Opened:
        """Check the whole database, rebuild what can be derived, and register the other damage."""
        found = find_damage(connection)
        if not found.spreads:
            for line in rebuild_derived(connection, found):
                log.warning("%s: %s", self.path, line)
            found = find_damage(connection) if found.problems else found
        self._suspect = bool(found.problems)
        for line in found.problems:
            log.error("%s is damaged: %s", self.path, line)
        if found.spreads:
            self.refusal = StorageDamaged(
                f"pages of {self.path} are damaged, and a change could spread it: "
                f"{found.problems[0]}; reading goes on",
                "with the kernel down (aios daemon down): aios storage repair, or restore a "
                "backup: aios storage restore FOLDER",
            )
        return self._register(connection, found.problems)

    def _register(self, connection: sqlite3.Connection, problems: list[str]) -> Opened:
        run = connection.execute
        run("BEGIN IMMEDIATE")
        run("INSERT OR IGNORE INTO store(url) VALUES (?)", (self._url,))
        run("INSERT INTO meta VALUES ('boot', 1)"
            " ON CONFLICT(key) DO UPDATE SET value = value + 1")  # fmt: skip
        urls = dict(run("SELECT id, url FROM store").fetchall())
        store = next(number for number, url in urls.items() if url == self._url)
        boot = run("SELECT value FROM meta WHERE key = 'boot'").fetchone()[0]
        run("ROLLBACK" if self.refusal else "COMMIT")
        return Opened(boot, store, urls, problems)

    def _close(self) -> None:
        if self._connection:
            try:
                self._connection.execute("PRAGMA optimize")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._connection.close()
                if not self._suspect:
                    self._clean.leave()
            except (sqlite3.Error, OSError) as error:
                log.error("storage did not close cleanly: %s", error)
        if self._lock:
            self._lock.close()

    # ------------------------------------------------------------------ in the thread: commits

    def _commit(self) -> list[tuple[Promise[Any], Outcome[Any]]]:
        batch: list[_Change[Any]] = []
        while self._waiting and len(batch) < MAX_CHANGES:
            batch.append(self._waiting.popleft())
        outcomes = self._attempt(batch) if batch else []
        return list(zip((change.promise for change in batch), outcomes, strict=True))

    def _attempt(self, batch: list[_Change[Any]]) -> list[Outcome[Any]]:
        failure = self.failure or self.refusal
        if self._connection is None or failure:
            failure = failure or StorageUnavailable("storage is closed")
            return [Outcome(None, failure)] * len(batch)
        try:
            return self._run(self._connection, batch)
        except sqlite3.Error as error:
            self._undo(self._connection)
            if len(batch) > 1 and _code(error) in _LOCAL:  # one by one, so that only one fails
                return [outcome for change in batch for outcome in self._attempt([change])]
            return [Outcome(None, self._typed(error, batch[0].name))] * len(batch)

    def _run(self, connection: sqlite3.Connection, batch: list[_Change[Any]]) -> list[Outcome[Any]]:
        self._bound(connection, "BEGIN IMMEDIATE")
        outcomes = [self._try(connection, change, alone=len(batch) == 1) for change in batch]
        if len(batch) > 1 or outcomes[0].error is None:  # else it has been rolled back
            self._bound(connection, "COMMIT")
        return outcomes

    def _try(
        self, connection: sqlite3.Connection, change: _Change[Any], *, alone: bool
    ) -> Outcome[Any]:
        if not alone:
            connection.execute("SAVEPOINT one")
        try:
            outcome = Outcome(change.work(connection), None)
        except sqlite3.Error:
            raise  # the database failed, not this change: nothing in the batch is safe
        except Exception as error:
            self._suspect |= isinstance(error, StorageDamaged)
            connection.execute("ROLLBACK" if alone else "ROLLBACK TO one")
            outcome = Outcome(None, error)
        if not alone:
            connection.execute("RELEASE one")
        return outcome

    def _bound(self, connection: sqlite3.Connection, statement: str) -> None:
        """Begin or commit. An I/O error here stops all changes: what the disk holds is unknown
        until the database is opened again."""
        try:
            connection.execute(statement)
        except sqlite3.Error as error:
            if _code(error) == sqlite3.SQLITE_IOERR:
                self.failure = self._unavailable(error)
            raise

    def _undo(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.failure = StorageUnavailable(
                f"{self.path}: a failed change could not be undone: {error}",
                "start the kernel again: aios daemon restart",
            )

    def _typed(self, error: sqlite3.Error, name: str = "") -> AiosError:
        """Return the error for the caller, and log SQLite's."""
        code = _code(error)
        self._suspect = True
        log.error("%s: %s", self.path, error)
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(
                f"there is no room for {self.path}: nothing was changed",
                "make room on that disk; reading goes on meanwhile",
            )
        if code in _DAMAGE and name:
            return StorageDamaged(f"{name}: its record is damaged: {error}", FILE_HINT)
        if code in _DAMAGE:
            return StorageDamaged(f"{self.path}: {error}", RESTORE_HINT)
        return self._unavailable(error)

    def _unavailable(self, error: sqlite3.Error) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self.path}: {error}", "when the disk works again: aios daemon restart"
        )


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _settle(settled: Outcome[list[tuple[Promise[Any], Outcome[Any]]]]) -> None:
    for promise, outcome in settled.result():
        promise.settle(outcome)
