"""Bringing the index of mounted folders up to date: how changed files get into it.

Nothing reports changes on the host, so each search has the folder walked (mount_walk.py), compared
with what is indexed (mount_table.py), and what differs read again, batch by batch. A pass that
starts after a search has come serves all searches that wait by then. Folders that are no longer
mounted are removed from the index. Each folder has a lane of its own, separate from that of file
calls: one that does not answer delays only those who search it, until their time is up.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from aios.kernel.loop.lanes import Lanes
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Promise, detach
from aios.kernel.storage.files import mount as hosts
from aios.syscalls.types.storage import MountInfo

from . import mount_table
from .index import Index
from .mount_walk import MAX_FILES, Walk, read, walk

log = logging.getLogger("aios.storage")

MAX_MOUNT_BYTES = 128 << 20
"""Limit on indexed text of one mount; above it no other file is read."""
_FILES_AT_ONCE = 32
_GONE_AT_ONCE = 256


class Condition(NamedTuple):
    """The state of a folder's index. ``there``: the folder can be read at all. ``note``: why some
    of it is not indexed, or ''."""

    there: bool
    note: str


@dataclass(eq=False)
class _Folder:
    """A folder, and the pass over it that is under way, if there is one."""

    path: str
    waiting: list[Promise[None]] = field(default_factory=list)
    """Searches that wait for the next pass."""
    running: bool = False
    there: bool = True
    note: str = ""


class Refresher:
    """Keeps mounted folders in the index as they are."""

    def __init__(self, loop: Loop, index: Index) -> None:
        self._index, self._unix = index, loop.clock.unix
        self._lanes = Lanes(loop, "mounts")
        self._folders: dict[str, _Folder] = {}
        self._mounted: frozenset[str] | None = None
        """None: not known."""
        self._closed = False

    def close(self, until_s: float) -> None:
        """End; the next search continues."""
        self._closed = True
        self._lanes.close(until_s)

    def late(self) -> list[str]:
        """Return the folders that have not answered for long."""
        return self._lanes.late()

    def keep(self, mounts: Collection[MountInfo]) -> None:
        """Set all mounts that there are. Other folders are removed from the index."""
        self._mounted = frozenset(mount.folder for mount in mounts)
        detach(self._clean(self._mounted))

    async def _clean(self, kept: frozenset[str]) -> None:
        try:
            folders = await self._index.ask(mount_table.folders)
        except Exception as error:
            log.warning("the index keeps folders that are not mounted: %s", error)
            return
        for folder in folders:
            if kept is self._mounted and folder not in kept:
                self.refresh(folder)

    def refresh(self, folder: str) -> Promise[None]:
        """Return a promise that is resolved when the index has all that is in the folder now, or
        cannot have it."""
        promise: Promise[None] = Promise()
        found = self._folder(folder)
        found.waiting.append(promise)
        self._begin(found)
        return promise

    def leave(self, folder: str, promise: Promise[None]) -> None:
        """Wait no longer: no pass is started for this promise."""
        waiting = self._folder(folder).waiting
        if promise in waiting:
            waiting.remove(promise)

    def condition(self, folder: str) -> Condition:
        """Return what the last pass found."""
        found = self._folder(folder)
        return Condition(found.there, found.note)

    async def check_exists(self, mount: MountInfo, path: str) -> None:
        """Raise what reading a file or folder would, if it does not exist."""
        await self._lanes.run(mount.folder, lambda: hosts.status(mount, path))

    def _folder(self, path: str) -> _Folder:
        return self._folders.setdefault(path, _Folder(path))

    def _is_mounted(self, path: str) -> bool:
        return self._mounted is None or path in self._mounted

    def _wanted(self, folder: _Folder) -> bool:
        """Return True while the folder is worth reading. In any thread."""
        return not self._closed and self._is_mounted(folder.path)

    # ------------------------------------------------------------------ one pass

    def _begin(self, folder: _Folder) -> None:
        if not folder.running and not self._closed:
            folder.running = True
            detach(self._pass(folder))

    async def _pass(self, folder: _Folder) -> None:
        """Bring a folder up to date for all who wait now."""
        served, folder.waiting = folder.waiting, []
        try:
            note = await self._update(folder)
        except Exception as error:
            log.warning("search in %s is not up to date: %s", folder.path, error)
            note = "its index could not be brought up to date; the kernel's log says why"
        folder.running, folder.note = False, note
        for promise in served:
            promise.resolve(None)
        if folder.waiting:
            self._begin(folder)
        elif not self._is_mounted(folder.path) and not folder.running:
            self._folders.pop(folder.path, None)

    async def _update(self, folder: _Folder) -> str:
        """Index what differs. Return why some of the folder is not indexed, or ''."""
        path = folder.path
        found = Walk([], False, "")  # one that is not mounted counts as empty
        if self._is_mounted(path):
            found = await self._lanes.run(path, lambda: walk(path, lambda: self._wanted(folder)))
        folder.there = not found.reason
        if found.reason or self._closed:  # its files stay indexed: the folder may come back
            return found.reason
        work = await self._index.ask(lambda p: mount_table.compare(p, path, found.files))
        for at in range(0, len(work.gone), _GONE_AT_ONCE):
            gone = work.gone[at : at + _GONE_AT_ONCE]
            await self._index.ask(lambda p, gone=gone: mount_table.forget(p, gone))  # type: ignore[misc]
        taken = work.taken
        while work.changed and self._wanted(folder):
            taken = await self._read(folder, work.changed, taken)
        while work.new and taken < MAX_MOUNT_BYTES and self._wanted(folder):
            taken = await self._read(folder, work.new, taken)
        if work.new:
            return f"only {MAX_MOUNT_BYTES >> 20} MiB of its text are searched"
        if found.more:
            return f"only the first {MAX_FILES:,} files, in order of name, are searched"
        return ""

    async def _read(self, folder: _Folder, paths: list[str], taken: int) -> int:
        """Read and index the first of these paths, and remove them from the list. Return the bytes
        of text that are indexed of the folder."""
        some = paths[:_FILES_AT_ONCE]
        texts = await self._lanes.run(folder.path, lambda: read(folder.path, some, self._unix))
        del paths[: len(texts)]
        if not self._wanted(folder):
            return taken
        taken = await self._index.ask(lambda p: mount_table.put(p, folder.path, texts))
        self._index.wake()
        return taken
