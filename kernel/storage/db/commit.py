"""The one connection that writes, its thread, and the commits: several changes, one fsync.

Changes that wait while a commit is under way share the next one. Each is a savepoint of its own,
so one that fails undoes itself alone. Outcomes are handed back when the commit is on the disk, and
not before: what a caller has been told survives the kernel. Views run between commits and see only
what is committed. What is damaged fails those who touch it, alone; only damage that a change could
spread stops all changes, and only a database that SQLite cannot use stops everything.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.syscalls.errors import AiosError, DiskFull, StorageDamaged, StorageUnavailable

from .damage import CleanMark, damage, mend_derived
from .schema import FILE_HINT, RESTORE_HINT, Lock, open_database

log = logging.getLogger("aios.storage")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Done = Callable[[Outcome[T]], None]

MOST_IN_A_COMMIT = 256
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT)
"""A constraint that does not hold is one of rows that are not what was written."""
_LOCAL = (*_DAMAGE, sqlite3.SQLITE_IOERR)
"""What may concern only one change of several."""


class _Waiting(NamedTuple, Generic[T]):
    change: Work[T]
    done: Done[T]
    name: str


class Opened(NamedTuple):
    """What opening found. ``boot``: how often it has been opened, this time included.
    ``urls``: of the stores by number; '' is the folder beside the database."""

    boot: int
    store: int
    urls: dict[int, str]
    damage: list[str]


class Committer:
    """Owns meta.db. ``failure`` is why it cannot be used, ``refusal`` why it cannot be changed;
    None while it can. ``name`` of what is read or changed: for the error when that is damaged."""

    def __init__(self, loop: Loop, folder: Path, url: str) -> None:
        self._path, self._url = folder / "meta.db", url
        self._worker = Worker(loop, "storage")
        self._waiting: deque[_Waiting[Any]] = deque()
        self._connection: sqlite3.Connection | None = None
        self._lock: Lock | None = None
        self._clean = CleanMark(self._path)
        self._suspect = False
        """Damage was met: the next start looks for all of it."""
        self.failure: AiosError | None = None
        self.refusal: AiosError | None = None

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
            clean = self._clean.take()
            self._connection = open_database(self._path)
            return self._register(self._connection, []) if clean else self._look(self._connection)
        except sqlite3.Error as error:
            self.failure = self._typed(error)
        except OSError as error:
            self.failure = StorageUnavailable(f"cannot open {self._path}: {error}")
        except AiosError as error:
            self.failure = error
        raise self.failure

    def _look(self, connection: sqlite3.Connection) -> Opened:
        """Find what is damaged, and go on with what is not."""
        found = damage(connection)
        if not found.spreads:
            for line in mend_derived(connection, found):
                log.warning("%s: %s", self._path, line)
            found = damage(connection) if found.problems else found
        self._suspect = bool(found.problems)
        for line in found.problems:
            log.error("%s is damaged: %s", self._path, line)
        if found.spreads:
            self.refusal = StorageDamaged(
                f"pages of {self._path} are damaged, and a change could spread it: "
                f"{found.problems[0]}; reading goes on",
                "with the kernel down (aios daemon down): aios storage repair, or take a backup: "
                "aios storage restore FOLDER",
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

    def view(self, work: Work[T], done: Done[T], name: str = "") -> None:
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

        self._worker.submit(job, done)

    def change(self, change: Work[T], done: Done[T], name: str = "") -> None:
        """Change something; ``done`` when it is on the disk, or was undone. It may be tried again
        after it was undone."""
        self._waiting.append(_Waiting(change, done, name))
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
                if not self._suspect:
                    self._clean.leave()
            except (sqlite3.Error, OSError) as error:
                log.error("storage did not close cleanly: %s", error)
        if self._lock:
            self._lock.close()

    # ------------------------------------------------------------------ in the thread

    def _commit(self) -> list[tuple[Done[Any], Outcome[Any]]]:
        batch: list[_Waiting[Any]] = []
        while self._waiting and len(batch) < MOST_IN_A_COMMIT:
            batch.append(self._waiting.popleft())
        return self._attempt(batch) if batch else []

    def _attempt(self, batch: list[_Waiting[Any]]) -> list[tuple[Done[Any], Outcome[Any]]]:
        failure = self.failure or self.refusal
        if self._connection is None or failure:
            failure = failure or StorageUnavailable("storage is closed")
            return [(waiting.done, Outcome(None, failure)) for waiting in batch]
        try:
            return self._run(self._connection, batch)
        except sqlite3.Error as error:
            self._undo(self._connection)
            if len(batch) > 1 and _code(error) in _LOCAL:  # one by one: the others go on
                return [ended for waiting in batch for ended in self._attempt([waiting])]
            typed = self._typed(error, batch[0].name)
            return [(waiting.done, Outcome(None, typed)) for waiting in batch]

    def _run(
        self, connection: sqlite3.Connection, batch: list[_Waiting[Any]]
    ) -> list[tuple[Done[Any], Outcome[Any]]]:
        outcomes: list[Outcome[Any]] = []
        self._bound(connection, "BEGIN IMMEDIATE")
        for waiting in batch:
            alone = len(batch) == 1
            if not alone:
                connection.execute("SAVEPOINT one")
            try:
                outcomes.append(Outcome(waiting.change(connection), None))
            except sqlite3.Error:
                raise  # of the disk, not of this change: nothing of the batch is safe
            except Exception as error:
                self._suspect |= isinstance(error, StorageDamaged)
                if alone:
                    connection.execute("ROLLBACK")
                    return [(waiting.done, Outcome(None, error))]
                connection.execute("ROLLBACK TO one")
                outcomes.append(Outcome(None, error))
            if not alone:
                connection.execute("RELEASE one")
        self._bound(connection, "COMMIT")
        return [(w.done, outcome) for w, outcome in zip(batch, outcomes, strict=True)]

    def _bound(self, connection: sqlite3.Connection, statement: str) -> None:
        """Begin or commit. An error of input or output there stops all changes: what the disk has
        is unknown until it is opened anew."""
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
                f"{self._path}: a failed change could not be undone: {error}",
                "start the kernel again: aios daemon restart",
            )

    def _typed(self, error: sqlite3.Error, name: str = "") -> AiosError:
        """SQLite's errors as ours."""
        code = _code(error)
        self._suspect = True
        log.error("%s: %s", self._path, error)
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(
                f"there is no room for {self._path}: nothing was changed",
                "make room on that disk; reading goes on meanwhile",
            )
        if code in _DAMAGE and name:
            return StorageDamaged(f"{name}: what is recorded of it is damaged: {error}", FILE_HINT)
        if code in _DAMAGE:
            return StorageDamaged(f"{self._path}: {error}", RESTORE_HINT)
        return self._unavailable(error)

    def _unavailable(self, error: sqlite3.Error) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self._path}: {error}", "when the disk is well again: aios daemon restart"
        )


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _hand_back(outcome: Outcome[list[tuple[Done[Any], Outcome[Any]]]]) -> None:
    for done, one in outcome.result():
        done(one)
