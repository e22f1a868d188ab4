"""What the operator has done to storage as a whole: status, check, repair and backup.

Checks and backups may take long, so they have a thread and a reading connection of their own, and
no call waits for them. Repair looks with these, and then mends in one commit.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from aios.kernel.loop.task import Outcome
from aios.kernel.storage.db.commit import Done
from aios.kernel.storage.db.schema import reading
from aios.kernel.storage.repair import backup, check, index_check
from aios.kernel.storage.repair.index_check import ANEW
from aios.syscalls.types import storage as s

from .manager import Storage


class Chores:
    """Each runs once at a time, one after another."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def status(self, done: Done[s.StorageStatus]) -> None:
        """How it is, also when it cannot be used."""
        storage = self._storage
        if storage.failure:
            done(Outcome(self._status([], 0), None))
            return

        def looked(outcome: Outcome[tuple[list[s.FsUsage], int]]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
            else:
                done(Outcome(self._status(*outcome.result()), None))

        storage.homes(looked)

    def _status(self, homes: list[s.FsUsage], garbage: int) -> s.StorageStatus:
        storage = self._storage
        return s.StorageStatus(
            state="failed" if storage.failure else "damaged" if storage.damage.lines else "ready",
            reason=str(storage.failure or storage.refusal or ""),
            folder=str(storage.folder),
            store=storage.url or str(storage.folder / "blobs"),
            semantic=storage.semantic,
            pending_garbage=garbage,
            homes=homes,
            damage=storage.damage.lines,
        )

    def check(self, content: bool, repair: bool, done: Done[s.StorageReport]) -> None:
        """Look, and mend when asked."""
        storage = self._storage
        if storage.failure:
            raise storage.failure
        storage.content.holds += 1

        def look() -> check.Findings:
            with closing(reading(storage.database)) as connection:
                connection.execute("BEGIN")
                found = check.examine(connection, storage.content.blobs, content)
                if content:
                    found.index = index_check.examine(storage.index, connection)
                return found

        def looked(outcome: Outcome[check.Findings]) -> None:
            storage.content.holds -= 1
            storage.content.sweep()
            if outcome.error:
                done(Outcome(None, outcome.error))
            elif repair:
                mend(outcome.result())
            else:
                done(Outcome(_report(outcome.result(), []), None))

        def mend(found: check.Findings) -> None:
            def change(connection: sqlite3.Connection) -> list[str]:
                return check.repair(connection, found)

            def mended(outcome: Outcome[list[str]]) -> None:
                if outcome.error:
                    done(Outcome(None, outcome.error))
                    return
                storage.content.sweep()
                storage.damage.mended()
                mend_index(found, outcome.result())

            storage.change(change, mended)

        def mend_index(found: check.Findings, said: list[str]) -> None:
            def emptied(outcome: Outcome[None]) -> None:
                how = f"the index of search: {outcome.error}" if outcome.error else ANEW
                done(Outcome(_report(found, [*said, how]), None))

            if found.index.damaged:
                storage.index_anew(found.index.problems[0], emptied)
            else:
                done(Outcome(_report(found, said), None))

        storage.chore(look, looked)

    def backup(self, folder: Path, done: Done[s.BackupReply]) -> None:
        """Copy everything into a new folder."""
        storage = self._storage
        if storage.failure:
            raise storage.failure
        blobs = storage.content.blobs
        assert blobs
        storage.content.holds += 1

        def copied(outcome: Outcome[backup.Copied]) -> None:
            storage.content.holds -= 1
            storage.content.sweep()
            if outcome.error:
                done(Outcome(None, outcome.error))
            else:
                done(Outcome(s.BackupReply(str(folder), *outcome.result()), None))

        storage.chore(lambda: backup.backup(storage.database, blobs, folder), copied)


def _report(found: check.Findings, mended: list[str]) -> s.StorageReport:
    problems = [*found.problems, *found.index.problems]
    return s.StorageReport(found.files, found.versions, found.blobs, problems, mended)
