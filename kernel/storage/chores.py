"""The operator's chores on storage as a whole: status, check, repair and backup.

Checks and backups may take long, so they have a thread and a reading connection of their own, and
no other call waits for them. A repair checks this way, then changes rows in one commit.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from aios.kernel.storage.db.schema import reading
from aios.kernel.storage.files import quota
from aios.kernel.storage.repair import backup, index_check
from aios.kernel.storage.repair.check import Findings, examine
from aios.kernel.storage.repair.index_check import REBUILT
from aios.kernel.storage.repair.repair import repair
from aios.syscalls.types import storage as s

from .manager import Storage


class Chores:
    """They run one after another."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def status(self) -> s.StorageStatus:
        """Return the state of storage, also of one that has failed."""
        storage = self._storage
        homes, garbage = ([], 0) if storage.failure else await storage.committer.read(self._homes)
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

    def _homes(self, connection: sqlite3.Connection) -> tuple[list[s.FsUsage], int]:
        """Return what every home uses, and how many blobs wait to be deleted."""
        owners = connection.execute("SELECT owner FROM home ORDER BY owner").fetchall()
        (garbage,) = connection.execute("SELECT count(*) FROM garbage").fetchone()
        limits = self._storage.limits
        return [quota.usage(connection, limits, owner) for (owner,) in owners], garbage

    async def check(self, content: bool, also_repair: bool) -> s.StorageReport:
        """Check everything, with ``content`` each byte of blobs, too."""
        storage = self._storage
        if storage.failure:
            raise storage.failure
        with storage.garbage.held():
            found = await storage.chores.run(lambda: self._examine(content))
        repaired: list[str] = []
        if also_repair:
            repaired = await storage.committer.change(lambda connection: repair(connection, found))
            storage.garbage.sweep()
            storage.damage.repaired()
            if found.index.damaged:
                repaired.append(await self._rebuild_index(found.index.problems[0]))
        return found.report(repaired)

    def _examine(self, content: bool) -> Findings:
        storage = self._storage
        with closing(reading(storage.committer.path)) as connection:
            connection.execute("BEGIN")
            found = examine(connection, storage.blobs, content)
            if content:
                found.index = index_check.examine(storage.index_path, connection)
            return found

    async def _rebuild_index(self, reason: str) -> str:
        try:
            await self._storage.rebuild_index(reason)
        except Exception as error:
            return f"the search index: {error}"
        return REBUILT

    async def backup(self, folder: Path) -> s.BackupReply:
        """Copy everything into a new folder."""
        storage = self._storage
        if storage.failure:
            raise storage.failure
        with storage.garbage.held():
            copied = await storage.chores.run(
                lambda: backup.backup(storage.committer.path, storage.blobs, folder)
            )
        return s.BackupReply(str(folder), *copied)
