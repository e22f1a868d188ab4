"""The storage manager: opens storage, joins its parts, closes it.

Its parts are db/commit.py (names and small content), files/ (operations, large content, uploads)
and search/ (the index). Promises that an operation ends once, with what is committed or a typed
error, and that nothing here blocks. Rights that policy gives have been checked before.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from aios.kernel.loop.lanes import CLOSE_S, Lanes
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, Promise, Task, detach
from aios.kernel.loop.worker import Worker
from aios.kernel.storage.db.commit import Committer, Opened, Work
from aios.kernel.storage.db.damage import KnownDamage
from aios.kernel.storage.files import kv, mount_table, quota, shares, tree
from aios.kernel.storage.files.blobs import Blobs
from aios.kernel.storage.files.content import Content
from aios.kernel.storage.files.garbage import Garbage
from aios.kernel.storage.files.operations import Files
from aios.kernel.storage.files.paths import Place
from aios.kernel.storage.files.quota import Limits
from aios.kernel.storage.files.uploads import Uploads
from aios.kernel.storage.search.index import Embedder, Index
from aios.kernel.storage.search.refresh import Refresher
from aios.kernel.storage.search.search import May, Search
from aios.kernel.trap.pending import Pending
from aios.syscalls.errors import AiosError, DeadlineExceeded, StorageDamaged
from aios.syscalls.types import storage as s

log = logging.getLogger("aios.storage")

T = TypeVar("T")


class Storage:
    """All of storage. ``open`` it first; ``close`` finishes what is under way."""

    def __init__(self, loop: Loop, folder: Path, url: str, limits: Limits) -> None:
        self.folder, self.url, self._limits = folder, url, limits
        self._loop = loop
        self._committer = Committer(loop, folder, url)
        self._lanes = Lanes(loop, "lane")
        self._chores = Worker(loop, "chores")
        self._index = Index(loop, self.index_path, self._committer)
        self._refresher = Refresher(loop, self._index)
        self._search = Search(loop, self._committer, self._index, self._refresher)
        self.blobs = Blobs(folder)
        self.garbage = Garbage(self._committer, self._lanes, self.blobs)
        content = Content(
            self._committer, self._lanes, self.blobs, self.garbage, limits, loop.clock,
            self._index.changed,
        )  # fmt: skip
        self.files = Files(
            self._committer, self._lanes, content, self.garbage, limits, loop.clock,
            self._index.changed,
        )  # fmt: skip
        self.uploads = Uploads(
            content, self._committer, self._lanes, self.blobs, self.garbage, limits
        )
        self.damage = KnownDamage()
        self._opening = True
        self._waiting: list[Promise[None]] = []

    # ------------------------------------------------------------------ from open to close

    def open(self) -> None:
        """Check and open in the background; calls wait until that has succeeded or failed."""
        self._committer.open().then(self._opened)

    def _opened(self, outcome: Outcome[Opened]) -> None:
        if outcome.error:
            log.error("storage cannot be used: %s", outcome.error)
        else:
            self._begin(outcome.result())
        self._opening = False
        waiting, self._waiting = self._waiting, []
        for promise in waiting:
            promise.resolve(None)

    def _begin(self, opened: Opened) -> None:
        self.damage.found(opened.damage)
        # while nothing can be changed, no start is counted: the next one has the same number
        written = secrets.randbits(48) if self.refusal else 0
        self.blobs.open(opened.urls, opened.store, opened.boot, written)
        self._index.open(self.blobs)
        self._committer.read(mount_table.mounts).then(self._keep_mounts)
        self.garbage.sweep()
        if not opened.damage:  # otherwise damage may hide the rows that name a blob
            detach(self.garbage.collect_orphans())

    async def serve(self, call: Pending, operation: Task[T], *, failed_too: bool = False) -> T:
        """Do what a call wants once storage is open; note damage that it meets.

        Raises the failure if storage has failed, unless ``failed_too``.
        """
        with closing(operation):
            await self.opened()
            if call.ended:
                raise DeadlineExceeded(f"{call.call.name} ended before storage was open")
            if self.failure and not failed_too:
                raise self.failure.with_traceback(None)
            try:
                return await operation
            except StorageDamaged as error:
                self.damage.met(error)
                raise

    def opened(self) -> Promise[None]:
        """Wait until opening has succeeded or failed."""
        promise: Promise[None] = Promise()
        if self._opening:
            self._waiting.append(promise)
        else:
            promise.resolve(None)
        return promise

    def close(self) -> None:
        """Finish what was submitted and close the database. Folders and stores that do not answer
        are given up after CLOSE_S: nothing that waits for them has been acknowledged."""
        until_s = self._loop.now() + CLOSE_S
        self._refresher.close(until_s)
        self._index.close(until_s)
        self._chores.close(max(0.0, until_s - self._loop.now()))
        self._lanes.close(until_s)
        self._committer.close()

    def use_embedder(self, embedder: Embedder) -> None:
        """Search by meaning, too, from now on."""
        self._index.embedder = embedder
        self._index.wake()

    def forget(self, user: str) -> None:
        """Drop the uploads of a caller that has ended."""
        self.uploads.drop_all(user)

    # ------------------------------------------------------------------ state

    @property
    def failure(self) -> AiosError | None:
        """Why nothing works; None if it does."""
        return self._committer.failure

    @property
    def refusal(self) -> AiosError | None:
        """Why nothing can be changed, though it can be read; None if it can."""
        return self._committer.refusal

    @property
    def semantic(self) -> bool:
        """Search by meaning is available."""
        return self._index.embedder is not None

    @property
    def database(self) -> Path:
        """The file of names and small content."""
        return self._committer.path

    @property
    def index_path(self) -> Path:
        """The file of the search index."""
        return self.folder / "index.db"

    def warnings(self) -> list[str]:
        """Return what the operator should know."""
        if self.failure:
            return [f"storage cannot be used: {self.failure.message}; see: aios storage status"]
        late = [f"{line}; calls that need it end at their deadlines, all others go on"
                for line in dict.fromkeys(self._lanes.late() + self._refresher.late())]  # fmt: skip
        found = self.damage.lines
        return late + ([f"storage is damaged; the first of {len(found)} findings: {found[0]}; "
                        "all of it: aios storage check"] if found else [])  # fmt: skip

    # ------------------------------------------------------------------ for chores

    def in_lane(self, folder: str, job: Callable[[], T]) -> Promise[T]:
        """Do something with a folder of the host, which may not answer."""
        return self._lanes.run(folder, job)

    def chore(self, job: Callable[[], T]) -> Promise[T]:
        """Do something that takes long, in a thread that no other call waits for."""
        return self._chores.run(job)

    def change(self, change: Work[T]) -> Promise[T]:
        """Change anything, in one commit."""
        return self._committer.change(change)

    def rebuild_index(self, reason: str) -> Promise[None]:
        """Empty the search index; it is filled again from the files."""
        promise: Promise[None] = Promise()
        self._index.begin_anew(reason, promise.settle)
        return promise

    # ------------------------------------------------------------------ search, homes, shares

    async def search(
        self, place: Place, agent: str, body: s.FsSearch, may: May, until_s: float
    ) -> s.FsFound:
        """Find the best passages below a path; at ``until_s`` answer with what there is."""
        promise: Promise[s.FsFound] = Promise()
        self._search.search(place, agent, body, may, until_s, promise.settle)
        return await promise

    async def homes(self) -> tuple[list[s.FsUsage], int]:
        """Return what every home uses, and how many blobs wait to be deleted."""

        def look(connection: sqlite3.Connection) -> tuple[list[s.FsUsage], int]:
            owners = connection.execute("SELECT owner FROM home ORDER BY owner").fetchall()
            (garbage,) = connection.execute("SELECT count(*) FROM garbage").fetchone()
            return [quota.usage(connection, self._limits, owner) for (owner,) in owners], garbage

        return await self._committer.read(look)

    async def usage(self, owner: str) -> s.FsUsage:
        """Return what a home uses."""
        return await self._committer.read(lambda c: quota.usage(c, self._limits, owner))

    async def set_quota(self, owner: str, quota_bytes: int | None) -> s.FsUsage:
        """Give a home a quota of its own, or (None) remove it."""
        return await self._committer.change(
            lambda c: quota.set_quota(c, self._limits, owner, quota_bytes)
        )

    async def share(self, place: Place, grantee: str, rights: s.Rights | None) -> None:
        """Share a path with another agent, or (None) take the share back."""

        def change(connection: sqlite3.Connection) -> None:
            if rights is not None:
                tree.get(connection, place.owner, place.path)
            shares.share(connection, place.owner, place.path, grantee, rights)

        await self._committer.change(change)

    async def shares(self, agent: str) -> s.FsShares:
        """Return the shares that an agent has given and received."""
        return await self._committer.read(
            lambda c: s.FsShares(shares.given(c, agent), shares.received(c, agent))
        )

    # ------------------------------------------------------------------ mounts, values

    async def mount(self, body: s.MountRequest) -> s.MountList:
        """Add, change or remove a mount; return all mounts."""

        def change(connection: sqlite3.Connection) -> list[s.MountInfo]:
            mount_table.set_mount(connection, body.agent, body.name, body.folder, body.writable)
            return mount_table.mounts(connection)

        mounts = await self._committer.change(change)
        self._refresher.keep(mounts)
        return s.MountList(mounts)

    async def mounts(self) -> s.MountList:
        """Return all mounts."""
        return s.MountList(await self._committer.read(mount_table.mounts))

    def _keep_mounts(self, outcome: Outcome[list[s.MountInfo]]) -> None:
        if outcome.error is None:
            self._refresher.keep(outcome.result())

    async def get_value(self, owner: str, key: str) -> s.KvEntry:
        """Return a value."""
        return await self._committer.read(lambda c: kv.get(c, owner, key))

    async def set_value(self, owner: str, key: str, value: bytes, expect: int | None) -> s.KvEntry:
        """Set a value."""
        unix = self._loop.clock.unix()
        return await self._committer.change(
            lambda c: kv.put(c, self._limits, owner, key, value, expect, unix)
        )

    async def delete_value(self, owner: str, key: str, expect: int | None) -> None:
        """Delete a value."""
        await self._committer.change(lambda c: kv.delete(c, self._limits, owner, key, expect))

    async def keys(self, owner: str, body: s.KvList) -> s.KvKeys:
        """List keys in order."""

        def look(connection: sqlite3.Connection) -> s.KvKeys:
            found = kv.keys(connection, owner, body.prefix, body.after, body.limit + 1)
            return s.KvKeys(found[: body.limit], len(found) > body.limit)

        return await self._committer.read(look)
