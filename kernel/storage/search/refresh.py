"""Mounted folders in the index: brought up to date when somebody searches them.

Nobody tells of changes on the host, so each search has the folder walked, and what differs read
again, batch by batch. A walk that begins after a search has come serves all who wait by then. What
belongs to a folder that is mounted for nobody is taken out. Each folder is looked at in a lane of
its own, beside that of its files: one that does not answer keeps nobody but those who search it,
and these only until their time is up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from aios.kernel.loop.lanes import Lanes
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.storage.db.commit import Done
from aios.kernel.storage.files import mount as hosts
from aios.syscalls.types.storage import MountInfo

from . import mounted
from .index import Index
from .walk import MOST_FILES, Text, Walk, read, walk

log = logging.getLogger("aios.storage")

MOST_MOUNT_BYTES = 128 << 20
"""Of text of one mount that is searched; when so much is in, no other file is read."""
_FILES_AT_ONCE = 32
_GONE_AT_ONCE = 256

T = TypeVar("T")


class Condition(NamedTuple):
    """How a folder's index stands. ``there``: the folder can be read at all; ``note``: what keeps
    some of it out, or ''."""

    there: bool
    note: str


@dataclass(eq=False)
class _Folder:
    """A folder and the pass over it that is under way, if one is."""

    path: str
    waiting: list[Callable[[], None]] = field(default_factory=list)
    served: list[Callable[[], None]] = field(default_factory=list)
    """Who waits for the pass that is under way."""
    running: bool = False
    changed: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    taken: int = 0
    finding: str = ""
    """What is told of it when the pass has ended, as ``note``."""
    there: bool = True
    note: str = ""


class Refresher:
    """Keeps mounted folders in the index as they are."""

    def __init__(self, loop: Loop, index: Index) -> None:
        self._index = index
        self._lanes = Lanes(loop, "mounts")
        self._folders: dict[str, _Folder] = {}
        self._mounted: frozenset[str] | None = None
        """None: not known."""
        self._closed = False

    def close(self, until_s: float) -> None:
        """End; the next search goes on with it."""
        self._closed = True
        self._lanes.close(until_s)

    def late(self) -> list[str]:
        """Folders that have not answered for long."""
        return self._lanes.late()

    def keep(self, mounts: Collection[MountInfo]) -> None:
        """These are all mounts there are. What is in the index of others is taken out."""
        kept = self._mounted = frozenset(mount.folder for mount in mounts)

        def known(outcome: Outcome[list[str]]) -> None:
            for folder in [] if outcome.error else outcome.result():
                if kept is self._mounted and not self._is_mounted(folder):
                    self.refresh(folder, lambda: None)

        self._index.ask(mounted.folders, known)

    def refresh(self, folder: str, done: Callable[[], None]) -> Callable[[], None]:
        """``done`` when all that is in the folder now is in the index, or cannot be; not any more
        when what is returned has been called."""
        found = self._folder(folder)
        found.waiting.append(done)
        self._begin(found)

        def off() -> None:
            for waiting in (found.waiting, found.served):
                if done in waiting:
                    waiting.remove(done)

        return off

    def condition(self, folder: str) -> Condition:
        """As the last pass found it."""
        found = self._folder(folder)
        return Condition(found.there, found.note)

    def exists(self, mount: MountInfo, path: str, done: Done[None]) -> None:
        """Whether there is such a file or folder; raises what reading it would."""

        def look() -> None:
            hosts.status(mount, path)

        self._lanes.submit(mount.folder, look, done)

    def _folder(self, path: str) -> _Folder:
        return self._folders.setdefault(path, _Folder(path))

    # ------------------------------------------------------------------ one pass

    def _begin(self, folder: _Folder) -> None:
        if folder.running or self._closed:
            return
        folder.running = True
        folder.served, folder.waiting = folder.waiting, []
        if not self._is_mounted(folder.path):  # as if nothing were in it
            self._walked(folder, Walk([], False, ""))
            return
        self._lanes.submit(
            folder.path,
            lambda: walk(folder.path, self._goes_on(folder)),
            self._then(folder, lambda found: self._walked(folder, found)),
        )

    def _goes_on(self, folder: _Folder) -> Callable[[], bool]:
        """For the thread: whether anybody still wants this."""
        return lambda: not self._closed and self._is_mounted(folder.path)

    def _is_mounted(self, path: str) -> bool:
        return self._mounted is None or path in self._mounted

    def _walked(self, folder: _Folder, found: Walk) -> None:
        folder.there, folder.finding = not found.reason, found.reason
        if found.more:
            folder.finding = f"only the first {MOST_FILES:,} files, in order of name, are searched"
        if found.reason or self._closed:  # what is in the index stays: the folder may come back
            self._end(folder)
            return

        def compared(work: mounted.Work) -> None:
            folder.changed, folder.new, folder.gone, folder.taken = work
            self._next(folder)

        self._index.ask(
            lambda p: mounted.compare(p, folder.path, found.files), self._then(folder, compared)
        )

    def _next(self, folder: _Folder) -> None:
        """The next batch of what is to be done."""
        if folder.gone:
            batch, folder.gone = folder.gone[:_GONE_AT_ONCE], folder.gone[_GONE_AT_ONCE:]
            self._index.ask(
                lambda p: mounted.forget(p, batch),
                self._then(folder, lambda _: self._next(folder)),
            )
        elif self._goes_on(folder)() and folder.changed:
            self._read(folder, folder.changed)
        elif self._goes_on(folder)() and folder.new and folder.taken < MOST_MOUNT_BYTES:
            self._read(folder, folder.new)
        else:
            if folder.new:
                folder.finding = f"only {MOST_MOUNT_BYTES >> 20} MiB of its text are searched"
            self._end(folder)

    def _read(self, folder: _Folder, queue: list[str]) -> None:
        some = queue[:_FILES_AT_ONCE]

        def put(texts: list[Text]) -> None:
            del queue[: len(texts)]
            if not self._goes_on(folder)():
                self._end(folder)
                return
            self._index.ask(lambda p: mounted.put(p, folder.path, texts), self._then(folder, taken))

        def taken(size: int) -> None:
            folder.taken = size
            self._index.wake()
            self._next(folder)

        self._lanes.submit(folder.path, lambda: read(folder.path, some), self._then(folder, put))

    def _then(self, folder: _Folder, go_on: Callable[[T], None]) -> Done[T]:
        """Go on with what comes of a step; a pass that fails ends."""

        def done(outcome: Outcome[T]) -> None:
            if outcome.error is None:
                go_on(outcome.result())
                return
            log.warning("search in %s is not up to date: %s", folder.path, outcome.error)
            folder.finding = "its index could not be brought up to date; the kernel's log says why"
            self._end(folder)

        return done

    def _end(self, folder: _Folder) -> None:
        folder.running, folder.note = False, folder.finding
        served, folder.served = folder.served, []
        for action in served:
            action()
        if folder.waiting:
            self._begin(folder)
        elif not self._is_mounted(folder.path) and not folder.running:
            self._folders.pop(folder.path, None)
