"""The storage manager: homes, shares, mounts and values, from the kernel's thread.

Owns what db/commit.py (names and small content), files/content.py (large content) and
search/index.py (search) own. Promises that an operation ends once, with what is committed or a
typed error, and that nothing here blocks. Rights that policy gives have been checked before; grants
between agents are checked in the transaction that uses them.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from aios.kernel.loop.lanes import CLOSE_S, Lanes
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.kernel.storage.db.commit import Committer, Done, Opened, Work
from aios.kernel.storage.db.damage import KnownDamage
from aios.kernel.storage.files import kv, versions, views
from aios.kernel.storage.files import mount as hosts
from aios.kernel.storage.files import quota as quotas
from aios.kernel.storage.files import shares as grants
from aios.kernel.storage.files import tree as files
from aios.kernel.storage.files.blobs import Blobs
from aios.kernel.storage.files.content import Content, allow, shown
from aios.kernel.storage.files.paths import Place
from aios.kernel.storage.files.quota import Limits
from aios.kernel.storage.files.tree import File
from aios.kernel.storage.files.uploads import Uploads
from aios.kernel.storage.search.index import Embedder, Index
from aios.kernel.storage.search.refresh import Refresher
from aios.kernel.storage.search.search import Search
from aios.syscalls.errors import AiosError, InvalidArgument
from aios.syscalls.types import storage as s

log = logging.getLogger("aios.storage")

T = TypeVar("T")

OPERATOR_NAME = "operator"


class Storage:
    """All of it. ``open`` first; ``close`` finishes what is under way."""

    def __init__(self, loop: Loop, folder: Path, url: str, limits: Limits) -> None:
        self.folder, self.url, self.limits = folder, url, limits
        self._committer = Committer(loop, folder, url)
        self._lanes = Lanes(loop, "lane")
        self._chores = Worker(loop, "chores")
        self._index = Index(loop, self.index, self._committer)
        self._refresher = Refresher(loop, self._index)
        self.finder = Search(loop, self._committer, self._index, self._refresher)
        self.content = Content(self._committer, self._lanes, limits, self._index.changed)
        self.uploads = Uploads(self.content, self._committer, self._lanes, limits)
        self._state = "opening"
        self.damage = KnownDamage()
        self._waiting: list[Callable[[], None]] = []

    def open(self) -> None:
        """Check and open in the background; calls wait until that has ended, well or not."""
        self._committer.open(self._opened)

    def use_embedder(self, embedder: Embedder) -> None:
        """Search by meaning, too, from now on."""
        self._index.embedder = embedder
        self._index.wake()

    def _opened(self, outcome: Outcome[Opened]) -> None:
        if outcome.error:
            log.error("storage cannot be used: %s", outcome.error)
            self._state = "failed"
        else:
            boot, store, urls, damage = outcome.result()
            self.damage.found(damage)
            # while nothing can be changed, no start is counted: the next one has the same number
            written = secrets.randbits(48) if self.refusal else 0
            self.content.blobs = Blobs(self.folder, urls, store, boot, written)
            self._state = "ready"
            self._index.open(self.content.blobs)
            self.mounts(self._mounts_known)
            self.content.sweep()
            if not damage:  # else what seems to be nobody's may be what the damage hides
                self.content.collect_orphans()
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action()

    def when_open(self, action: Callable[[], None]) -> None:
        """Now, or as soon as opening has ended."""
        if self._state == "opening":
            self._waiting.append(action)
        else:
            action()

    def close(self) -> None:
        """Finish what was submitted and close the database. Folders and stores that do not answer
        are waited for only so long: nothing that waits for them has been acknowledged."""
        until_s = time.monotonic() + CLOSE_S
        self._refresher.close(until_s)
        self._index.close(until_s)
        self._chores.close(max(0.0, until_s - time.monotonic()))
        self._lanes.close(until_s)
        self._committer.close()

    def forget(self, user: str) -> None:
        """A caller has ended: what it was writing in parts is dropped."""
        self.uploads.drop_all(user)

    @property
    def failure(self) -> AiosError | None:
        """Why nothing works; None when it does."""
        return self._committer.failure

    @property
    def refusal(self) -> AiosError | None:
        """Why nothing can be changed, though it can be read; None when it can."""
        return self._committer.refusal

    def warnings(self) -> list[str]:
        """What the operator should know."""
        if self.failure:
            return [f"storage cannot be used: {self.failure.message}; see: aios storage status"]
        late = [f"{line}; calls that need it end at their deadlines, all others go on"
                for line in dict.fromkeys(self._lanes.late() + self._refresher.late())]  # fmt: skip
        found = self.damage.lines
        return late + ([f"storage is damaged; the first of {len(found)} findings: {found[0]}; "
                        "all of it: aios storage check"] if found else [])  # fmt: skip

    @property
    def database(self) -> Path:
        """The file of names and small content."""
        return self._committer.path

    @property
    def index(self) -> Path:
        """The file of the index of search."""
        return self.folder / "index.db"

    def index_anew(self, reason: str, done: Done[None]) -> None:
        """Empty the index; searches find all again when it has been read in."""
        self._index.begin_anew(reason, done)

    @property
    def semantic(self) -> bool:
        """Whether search by meaning is available."""
        return self._index.embedder is not None

    def in_lane(self, folder: str, job: Callable[[], T], done: Done[T]) -> None:
        """Something with a folder of the host, which may not answer."""
        self._lanes.submit(folder, job, done)

    def chore(self, job: Callable[[], T], done: Done[T]) -> None:
        """Something that takes long, in a thread that nobody waits for."""
        self._chores.submit(job, done)

    def change(self, change: Work[T], done: Done[T]) -> None:
        """A change of anything, in one commit."""
        self._committer.change(change, done)

    def homes(self, done: Done[tuple[list[s.FsUsage], int]]) -> None:
        """What every home takes, and how many blobs wait to be deleted."""

        def look(connection: sqlite3.Connection) -> tuple[list[s.FsUsage], int]:
            owners = connection.execute("SELECT owner FROM home ORDER BY owner").fetchall()
            (garbage,) = connection.execute("SELECT count(*) FROM garbage").fetchone()
            return [quotas.usage(connection, self.limits, owner) for (owner,) in owners], garbage

        self._committer.view(look, done)

    # ------------------------------------------------------------------ reading

    def stat(self, place: Place, agent: str, done: Done[s.FileInfo]) -> None:
        """What a path is."""
        if place.kind == "mount":
            self._on_mount(place, agent, lambda m: hosts.status(m, place.path), done)
            return

        def look(connection: sqlite3.Connection) -> s.FileInfo:
            if place.kind in ("homes", "shares", "mounts"):
                return views.folder(place.shown())
            if place.kind == "shared" and views.leads_to_grant(connection, place, agent):
                return views.folder(place.shown())
            allow(connection, place, agent, "read")
            return shown(place, files.get(connection, place.owner, place.path))

        self._committer.view(look, done, place.shown())

    def entries(
        self, place: Place, agent: str, after: str, most: int, done: Done[s.FsEntries]
    ) -> None:
        """A folder's entries."""
        if place.kind == "mount":
            self._on_mount(
                place, agent,
                lambda m: s.FsEntries(*hosts.entries(m, place.path, after, most)), done,
            )  # fmt: skip
            return

        def look(connection: sqlite3.Connection) -> s.FsEntries:
            found = views.entries(connection, place, agent)
            if found is None:
                allow(connection, place, agent, "read")
                rows = files.children(connection, place.owner, place.path, after, most + 1)
                found = [shown(place, row) for row in rows]
            else:
                found = [e for e in found if e.path.rpartition("/")[2] > after]
            return s.FsEntries(found[:most], len(found) > most)

        self._committer.view(look, done, place.shown())

    def read(self, place: Place, agent: str, body: s.FsRead, done: Done[s.FsData]) -> None:
        """A piece of a file."""
        if place.kind == "mount":
            if body.version:
                raise InvalidArgument("a mount keeps no versions")
            self._on_mount(
                place, agent,
                lambda m: s.FsData(*hosts.read(m, place.path, body.offset, body.length)), done,
            )  # fmt: skip
            return
        self.content.read(place, agent, body.offset, body.length, body.version, done)

    def history(self, place: Place, agent: str, done: Done[s.FsVersions]) -> None:
        """A file's versions."""

        def look(connection: sqlite3.Connection) -> s.FsVersions:
            allow(connection, place, agent, "read")
            return s.FsVersions(
                place.shown(), versions.history(connection, place.owner, place.path)
            )

        self._committer.view(look, done, place.shown())

    def usage(self, owner: str, done: Done[s.FsUsage]) -> None:
        """What a home takes."""
        self._committer.view(lambda c: quotas.usage(c, self.limits, owner), done)

    # ------------------------------------------------------------------ changing

    def write(self, place: Place, agent: str, body: s.FsWrite, done: Done[s.FileInfo]) -> None:
        """Replace or append."""
        if place.kind == "mount":
            if body.expect is not None:
                raise InvalidArgument("a mount keeps no versions", "write without expect")
            self._on_mount(
                place, agent, lambda m: hosts.write(m, place.path, body.data, body.append), done
            )
            return
        self.content.write(place, agent, body.data, body.append, body.expect, done)

    def mkdir(self, place: Place, agent: str, done: Done[s.FileInfo]) -> None:
        """Make a folder."""
        if place.kind == "mount":
            self._on_mount(place, agent, lambda m: hosts.make_folder(m, place.path), done)
            return

        def change(connection: sqlite3.Connection) -> s.FileInfo:
            allow(connection, place, agent, "write")
            return shown(
                place, files.mkdir(connection, self.limits, place.owner, place.path, agent)
            )

        self._committer.change(change, done, place.shown())

    def delete(self, place: Place, agent: str, recursive: bool, done: Done[None]) -> None:
        """Delete; versions stay."""
        if place.kind == "mount":
            self._on_mount(place, agent, lambda m: hosts.delete(m, place.path, recursive), done)
            return

        def change(connection: sqlite3.Connection) -> list[File]:
            allow(connection, place, agent, "write")
            return files.delete(connection, self.limits, place.owner, place.path, agent, recursive)

        self._change_files(place, change, lambda _: None, done)

    def move(self, source: Place, target: Place, agent: str, done: Done[s.FileInfo]) -> None:
        """Rename within one root."""
        if (source.kind, source.owner) != (target.kind, target.owner):
            raise InvalidArgument(
                f"{source.shown()} and {target.shown()} are not in one tree",
                "aios.fs.move copies files between trees, and then deletes the source",
            )
        if source.kind == "mount":
            self._on_mount(source, agent, lambda m: hosts.move(m, source.path, target.path), done)
            return

        def change(connection: sqlite3.Connection) -> list[File]:
            allow(connection, source, agent, "write")
            allow(connection, target, agent, "write")
            return files.move(connection, source.owner, source.path, target.path, agent)

        self._change_files(source, change, lambda moved: shown(target, moved[0]), done)

    def rollback(self, place: Place, agent: str, version: int, done: Done[s.FileInfo]) -> None:
        """An old version again."""

        def change(connection: sqlite3.Connection) -> list[File]:
            allow(connection, place, agent, "write")
            return [versions.rollback(
                connection, self.limits, place.owner, place.path, version, agent
            )]  # fmt: skip

        self._change_files(place, change, lambda rolled: shown(place, rolled[0]), done)

    def prune(self, place: Place, agent: str, keep: int, done: Done[s.FsPruned]) -> None:
        """Forget old versions."""

        def change(connection: sqlite3.Connection) -> tuple[int, int]:
            allow(connection, place, agent, "write")
            return versions.prune(connection, place.owner, place.path, keep)

        def pruned(outcome: Outcome[tuple[int, int]]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
                return
            self.content.sweep()
            done(Outcome(s.FsPruned(*outcome.result()), None))

        self._committer.change(change, pruned, place.shown())

    def _change_files(
        self, place: Place, change: Work[list[File]], show: Callable[[list[File]], T],
        done: Done[T],
    ) -> None:  # fmt: skip
        """A change of rows that search has to hear of."""

        def changed(outcome: Outcome[list[File]]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
                return
            self._index.changed(outcome.result())
            done(Outcome(show(outcome.result()), None))
            self.content.sweep()

        self._committer.change(change, changed, place.shown())

    # ------------------------------------------------------------------ grants, mounts, values

    def share(self, place: Place, grantee: str, rights: s.Rights | None, done: Done[None]) -> None:
        """Grant, or take back."""

        def change(connection: sqlite3.Connection) -> None:
            if rights is not None:
                files.get(connection, place.owner, place.path)
            grants.share(connection, place.owner, place.path, grantee, rights)

        self._committer.change(change, done)

    def shares(self, agent: str, done: Done[s.FsShares]) -> None:
        """Given and received."""
        self._committer.view(
            lambda c: s.FsShares(grants.given(c, agent), grants.received(c, agent)), done
        )

    def mount(self, body: s.MountRequest, done: Done[s.MountList]) -> None:
        """Add or remove a mount."""

        def change(connection: sqlite3.Connection) -> s.MountList:
            grants.mount(connection, body.agent, body.name, body.folder, body.writable)
            return s.MountList(grants.mounts(connection))

        def changed(outcome: Outcome[s.MountList]) -> None:
            self._mounts_known(outcome)
            done(outcome)

        self._committer.change(change, changed)

    def mounts(self, done: Done[s.MountList]) -> None:
        """All mounts."""
        self._committer.view(lambda c: s.MountList(grants.mounts(c)), done)

    def _mounts_known(self, outcome: Outcome[s.MountList]) -> None:
        if outcome.error is None:
            self._refresher.keep(outcome.result().mounts)

    def set_quota(self, owner: str, quota: int | None, done: Done[s.FsUsage]) -> None:
        """A home's own quota."""
        self._committer.change(lambda c: quotas.set_quota(c, self.limits, owner, quota), done)

    def get_value(self, owner: str, key: str, done: Done[s.KvEntry]) -> None:
        """A value."""
        self._committer.view(lambda c: kv.get(c, owner, key), done)

    def set_value(
        self, owner: str, key: str, value: bytes, expect: int | None, done: Done[s.KvEntry]
    ) -> None:
        """Set a value."""
        self._committer.change(lambda c: kv.put(c, self.limits, owner, key, value, expect), done)

    def delete_value(self, owner: str, key: str, expect: int | None, done: Done[None]) -> None:
        """Forget a value."""
        self._committer.change(lambda c: kv.delete(c, self.limits, owner, key, expect), done)

    def keys(self, owner: str, body: s.KvList, done: Done[s.KvKeys]) -> None:
        """Keys in order."""

        def look(connection: sqlite3.Connection) -> s.KvKeys:
            found = kv.keys(connection, owner, body.prefix, body.after, body.limit + 1)
            return s.KvKeys(found[: body.limit], len(found) > body.limit)

        self._committer.view(look, done)

    def _on_mount(
        self, place: Place, agent: str, job: Callable[[s.MountInfo], T], done: Done[T]
    ) -> None:
        """Do something below a mount, in its folder's lane."""

        def found(outcome: Outcome[s.MountInfo]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
            else:
                mount = outcome.result()
                self.in_lane(mount.folder, lambda: job(mount), done)

        self._committer.view(lambda c: grants.find_mount(c, agent, place.owner), found)
