"""Operations on files by path: in homes and shares through the database, on mounts in the host.

Each reads or changes what one path names. Rights that policy gives have been checked before; shares
between agents are checked in the transaction that uses them. Runs in the kernel's thread, and
nothing here blocks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from aios.kernel.loop.clock import Clock
from aios.kernel.loop.lanes import Lanes
from aios.kernel.storage.db.commit import Committer, Work
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types import storage as s

from . import changes, mount, tree, versions, virtual_folders
from .content import Content, file_info
from .garbage import Garbage
from .mount_list import find_mount
from .paths import Place
from .quota import Limits
from .shares import allow
from .tree import File, Stamp

T = TypeVar("T")


class Files:
    """Operations on files and folders. ``agent`` is the caller's name."""

    def __init__(
        self, committer: Committer, lanes: Lanes, content: Content, garbage: Garbage,
        limits: Limits, clock: Clock, on_changed: Callable[[Sequence[File]], None],
    ) -> None:  # fmt: skip
        self._committer, self._lanes = committer, lanes
        self._content, self._garbage = content, garbage
        self._limits, self._clock, self._on_changed = limits, clock, on_changed

    # ------------------------------------------------------------------ reading

    async def stat(self, place: Place, agent: str) -> s.FileInfo:
        """Return what a path is."""
        if place.kind == "mount":
            return await self._on_mount(place, agent, lambda m: mount.status(m, place.path))

        def look(connection: sqlite3.Connection) -> s.FileInfo:
            if place.kind in ("homes", "shares", "mounts"):
                return virtual_folders.folder(place.shown())
            if place.kind == "shared" and virtual_folders.leads_to_share(connection, place, agent):
                return virtual_folders.folder(place.shown())
            allow(connection, place, agent, "read")
            return file_info(place, tree.get(connection, place.owner, place.path))

        return await self._committer.read(look, place.shown())

    async def entries(self, place: Place, agent: str, after: str, most: int) -> s.FsEntries:
        """List at most ``most`` entries of a folder, behind the name ``after``."""
        if place.kind == "mount":
            return await self._on_mount(
                place, agent, lambda m: s.FsEntries(*mount.entries(m, place.path, after, most))
            )

        def look(connection: sqlite3.Connection) -> s.FsEntries:
            found = virtual_folders.entries(connection, place, agent)
            if found is None:
                allow(connection, place, agent, "read")
                rows = tree.children(connection, place.owner, place.path, after, most + 1)
                found = [file_info(place, row) for row in rows]
            else:
                found = [e for e in found if e.path.rpartition("/")[2] > after]
            return s.FsEntries(found[:most], len(found) > most)

        return await self._committer.read(look, place.shown())

    async def read(self, place: Place, agent: str, body: s.FsRead) -> s.FsData:
        """Return a piece of a file, or of one of its versions."""
        offset, length = body.offset, body.length
        if place.kind != "mount":
            return await self._content.read(place, agent, offset, length, body.version)
        if body.version:
            raise InvalidArgument("a mount keeps no versions")
        return await self._on_mount(
            place, agent, lambda m: s.FsData(*mount.read(m, place.path, offset, length))
        )

    async def history(self, place: Place, agent: str) -> s.FsVersions:
        """List a file's versions."""

        def look(connection: sqlite3.Connection) -> s.FsVersions:
            allow(connection, place, agent, "read")
            found = versions.history(connection, place.owner, place.path)
            return s.FsVersions(place.shown(), found)

        return await self._committer.read(look, place.shown())

    # ------------------------------------------------------------------ changing

    async def write(self, place: Place, agent: str, body: s.FsWrite) -> s.FileInfo:
        """Replace a file's content or append to it."""
        data, append = body.data, body.append
        if place.kind != "mount":
            return await self._content.write(place, agent, data, append, body.expect)
        if body.expect is not None:
            raise InvalidArgument("a mount keeps no versions", "write without expect")
        return await self._on_mount(
            place, agent, lambda m: mount.write(m, place.path, data, append)
        )  # fmt: skip

    async def mkdir(self, place: Place, agent: str) -> s.FileInfo:
        """Make a folder."""
        if place.kind == "mount":
            return await self._on_mount(place, agent, lambda m: mount.make_folder(m, place.path))
        stamp = self._stamp(agent)

        def change(connection: sqlite3.Connection) -> s.FileInfo:
            allow(connection, place, agent, "write")
            made = changes.mkdir(connection, self._limits, place.owner, place.path, stamp)
            return file_info(place, made)

        return await self._committer.change(change, place.shown())

    async def delete(self, place: Place, agent: str, recursive: bool) -> None:
        """Delete a file or folder; versions stay."""
        if place.kind == "mount":
            return await self._on_mount(
                place, agent, lambda m: mount.delete(m, place.path, recursive)
            )
        stamp = self._stamp(agent)

        def change(connection: sqlite3.Connection) -> list[File]:
            allow(connection, place, agent, "write")
            return changes.delete(
                connection, self._limits, place.owner, place.path, stamp, recursive=recursive
            )

        await self._change_files(place, change)

    async def move(self, source: Place, target: Place, agent: str) -> s.FileInfo:
        """Rename within one home, share or mount."""
        if (source.kind, source.owner) != (target.kind, target.owner):
            raise InvalidArgument(
                f"{source.shown()} and {target.shown()} are not in one tree",
                "aios.fs.move copies files between trees, and then deletes the source",
            )
        if source.kind == "mount":
            return await self._on_mount(
                source, agent, lambda m: mount.move(m, source.path, target.path)
            )
        stamp = self._stamp(agent)

        def change(connection: sqlite3.Connection) -> list[File]:
            allow(connection, source, agent, "write")
            allow(connection, target, agent, "write")
            return changes.move(connection, source.owner, source.path, target.path, stamp)

        return file_info(target, (await self._change_files(source, change))[0])

    async def rollback(self, place: Place, agent: str, version: int) -> s.FileInfo:
        """Make an old version's content the newest version."""
        stamp = self._stamp(agent)

        def change(connection: sqlite3.Connection) -> list[File]:
            allow(connection, place, agent, "write")
            return [versions.rollback(
                connection, self._limits, place.owner, place.path, version, stamp
            )]  # fmt: skip

        return file_info(place, (await self._change_files(place, change))[0])

    async def prune(self, place: Place, agent: str, keep: int) -> s.FsPruned:
        """Drop old versions."""

        def change(connection: sqlite3.Connection) -> tuple[int, int]:
            allow(connection, place, agent, "write")
            return versions.prune(connection, place.owner, place.path, keep)

        pruned = await self._committer.change(change, place.shown())
        self._garbage.sweep()
        return s.FsPruned(*pruned)

    # ------------------------------------------------------------------ helpers

    def _stamp(self, agent: str) -> Stamp:
        return Stamp(agent, self._clock.unix())

    async def _change_files(self, place: Place, change: Work[list[File]]) -> list[File]:
        """Change rows, and tell search."""
        changed = await self._committer.change(change, place.shown())
        self._on_changed(changed)
        self._garbage.sweep()
        return changed

    async def _on_mount(self, place: Place, agent: str, job: Callable[[s.MountInfo], T]) -> T:
        """Do something below a mount, in its folder's lane."""
        found = await self._committer.read(lambda c: find_mount(c, agent, place.owner))
        return await self._lanes.run(found.folder, lambda: job(found))
