"""The storage manager: opens storage, joins its parts, closes it.

Its parts are db/commit.py (names and small content), files/ (operations, large content, uploads)
and search/ (the index). Promises that an operation ends once, with what is committed or a typed
error, and that nothing here blocks. Rights that policy gives have been checked before.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from aios.kernel.loop.lanes import CLOSE_S, Lanes
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, Promise, Task, detach
from aios.kernel.loop.worker import Worker
from aios.kernel.storage.db.commit import Committer, Opened
from aios.kernel.storage.db.damage import KnownDamage
from aios.kernel.storage.files import kv, mount_list, quota, shares, tree
from aios.kernel.storage.files.blobs import Blobs
from aios.kernel.storage.files.content import Content
from aios.kernel.storage.files.garbage import Garbage
from aios.kernel.storage.files.operations import Files
from aios.kernel.storage.files.paths import Place
from aios.kernel.storage.files.quota import Limits
from aios.kernel.storage.files.uploads import Uploads
from aios.kernel.storage.search.index import Embedder, Index
from aios.kernel.storage.search.mount_refresh import Refresher
from aios.kernel.storage.search.search import May, Search
from aios.kernel.trap.pending import Pending
from aios.syscalls.errors import AiosError, DeadlineExceeded, StorageDamaged
from aios.syscalls.types import storage as s

log = logging.getLogger("aios.storage")

T = TypeVar("T")


class Storage:
    """All of storage. ``open`` it first; ``close`` finishes what is under way."""

    def __init__(self, loop: Loop, folder: Path, url: str, limits: Limits) -> None:
        self.folder, self.url, self.limits, self._loop = folder, url, limits, loop
        self.index_path = folder / "index.db"
        self.committer = Committer(loop, folder, url)
        self.lanes = Lanes(loop, "lane")
        self.chores = Worker(loop, "chores")
        self._index = Index(loop, self.index_path, self.committer)
        self._refresher = Refresher(loop, self._index)
        self._search = Search(loop, self.committer, self._index, self._refresher)
        self.blobs = Blobs(folder)
        self.garbage = Garbage(self.committer, self.lanes, self.blobs)
        content = Content(
            self.committer, self.lanes, self.blobs, self.garbage, limits, loop.clock,
            self._index.changed,
        )  # fmt: skip
        self.files = Files(
            self.committer, self.lanes, content, self.garbage, limits, loop.clock,
            self._index.changed,
        )  # fmt: skip
        self.uploads = Uploads(
            content, self.committer, self.lanes, self.blobs, self.garbage, limits
        )
        self.damage = KnownDamage()
        self._opening = True
        self._waiting: list[Promise[None]] = []

    # ------------------------------------------------------------------ from open to close

    def open(self) -> None:
        """Check and open in the background; calls wait until that has succeeded or failed."""
        self.committer.open().then(self._opened)

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
        self.committer.read(mount_list.mounts).then(self._keep_mounts)
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
            except AiosError as error:
                if isinstance(error, StorageDamaged):
                    self.damage.met(error)
                raise error.with_traceback(None) from None  # it may be raised for many calls

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
        self.chores.close(max(0.0, until_s - self._loop.now()))
        self.lanes.close(until_s)
        self.committer.close()

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
        return self.committer.failure

    @property
    def refusal(self) -> AiosError | None:
        """Why nothing can be changed, though it can be read; None if it can."""
        return self.committer.refusal

    @property
    def semantic(self) -> bool:
        """Search by meaning is available."""
        return self._index.embedder is not None

    def warnings(self) -> list[str]:
        """Return what the operator should know."""
        if self.failure:
            return [f"storage cannot be used: {self.failure.message}; see: aios storage status"]
        late = [f"{line}; calls that need it end at their deadlines, all others go on"
                for line in dict.fromkeys(self.lanes.late() + self._refresher.late())]  # fmt: skip
        found = self.damage.lines
        return late + ([f"storage is damaged; the first of {len(found)} findings: {found[0]}; "
                        "all of it: aios storage check"] if found else [])  # fmt: skip

    async def rebuild_index(self, reason: str) -> None:
        """Empty the search index; it is filled again from the files."""
        await self._index.rebuild(reason)

    # ------------------------------------------------------------------ search, homes, shares

    async def search(
        self, place: Place, agent: str, body: s.FsSearch, may: May, until_s: float
    ) -> s.FsFound:
        """Find the best passages below a path; at ``until_s`` answer with what there is."""
        return await self._search.search(place, agent, body, may, until_s)

    async def usage(self, owner: str) -> s.FsUsage:
        """Return what a home uses."""
        return await self.committer.read(lambda c: quota.usage(c, self.limits, owner))

    async def set_quota(self, owner: str, quota_bytes: int | None) -> s.FsUsage:
        """Give a home a quota of its own, or (None) remove it."""
        return await self.committer.change(
            lambda c: quota.set_quota(c, self.limits, owner, quota_bytes)
        )

    async def share(self, place: Place, grantee: str, rights: s.Rights | None) -> None:
        """Share a path with another agent, or (None) take the share back."""

        def change(connection: sqlite3.Connection) -> None:
            if rights is not None:
                tree.get(connection, place.owner, place.path)
            shares.share(connection, place.owner, place.path, grantee, rights)

        await self.committer.change(change)

    async def shares(self, agent: str) -> s.FsShares:
        """Return the shares that an agent has given and received."""
        return await self.committer.read(
            lambda c: s.FsShares(shares.given(c, agent), shares.received(c, agent))
        )

    # ------------------------------------------------------------------ mounts, values

    async def mount(self, body: s.MountRequest) -> s.MountList:
        """Add, change or remove a mount; return all mounts."""

        def change(connection: sqlite3.Connection) -> list[s.MountInfo]:
            mount_list.set_mount(connection, body.agent, body.name, body.folder, body.writable)
            return mount_list.mounts(connection)

        mounts = await self.committer.change(change)
        self._refresher.keep(mounts)
        return s.MountList(mounts)

    async def mounts(self) -> s.MountList:
        """Return all mounts."""
        return s.MountList(await self.committer.read(mount_list.mounts))

    def _keep_mounts(self, outcome: Outcome[list[s.MountInfo]]) -> None:
        if outcome.error is None:
            self._refresher.keep(outcome.result())

    async def get_value(self, owner: str, key: str) -> s.KvEntry:
        """Return a value."""
        return await self.committer.read(lambda c: kv.get(c, owner, key))

    async def set_value(self, owner: str, key: str, value: bytes, expect: int | None) -> s.KvEntry:
        """Set a value."""
        unix = self._loop.clock.unix()
        return await self.committer.change(
            lambda c: kv.put(c, self.limits, owner, key, value, expect, unix)
        )

    async def delete_value(self, owner: str, key: str, expect: int | None) -> None:
        """Delete a value."""
        await self.committer.change(lambda c: kv.delete(c, self.limits, owner, key, expect))

    async def keys(self, owner: str, body: s.KvList) -> s.KvKeys:
        """List keys in order."""

        def look(connection: sqlite3.Connection) -> s.KvKeys:
            found = kv.keys(connection, owner, body.prefix, body.after, body.limit + 1)
            return s.KvKeys(found[: body.limit], len(found) > body.limit)

        return await self.committer.read(look)
