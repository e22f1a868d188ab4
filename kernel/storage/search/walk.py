"""Mounted folders, walked and read for search: what is there, and the text of it.

Every step is taken as in files/mount.py, so nothing outside is seen. What ``aios.fs`` could not
name, or is neither a file nor a folder, is passed over, and so is what cannot be read. All of it is
bounded: a mount may be a whole disk. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aios.kernel.storage.files import mount as hosts
from aios.kernel.storage.files.paths import MAX_DEPTH, MAX_NAME_BYTES, MAX_PATH_BYTES, joined
from aios.syscalls.errors import AiosError
from aios.syscalls.types.storage import MountInfo

from .passages import MOST_TEXT_BYTES, text_of

MOST_FILES = 10_000
"""Of one mount that are searched, in order of their paths."""
MOST_ENTRIES = 100_000
"""Of one mount that are looked at: files, folders and what is neither."""
_MOST_DEPTH = MAX_DEPTH - 2
_MOST_PATH_BYTES = MAX_PATH_BYTES - 80
"""Before the path below a mount stand ``/mnt`` and the mount's name."""
_SETTLED_NS = 2_000_000_000
"""Of a file that was changed less than that ago, one more change may leave the time as it is."""
_BYTES_AT_ONCE = 1 << 20
_INTEGER = (1 << 63) - 1


class State(NamedTuple):
    """What of a file changes when the file does. ``changed`` in ns; 0: not to be relied on."""

    size: int
    changed: int
    inode: int


class Seen(NamedTuple):
    """A regular file below a mounted folder."""

    path: str
    state: State


class Walk(NamedTuple):
    """``more``: there are others; ``reason``: why the folder itself cannot be read, or ''."""

    files: list[Seen]
    more: bool
    reason: str


class Text(NamedTuple):
    """A file as it was read. ``text`` is '' when it is none, and None when it cannot be read;
    ``taken``: bytes of text; ``cut``: there is more of it."""

    path: str
    state: State
    text: str | None
    taken: int = 0
    cut: bool = False


def walk(folder: str, go_on: Callable[[], bool]) -> Walk:
    """All files below a folder, until ``go_on`` says no."""
    walker = _Walker(go_on)
    try:
        with hosts.root(folder) as fd:
            walker.beneath(fd, "", 1)
    except OSError as error:
        return Walk([], False, error.strerror or str(error))
    return Walk(walker.files, walker.more, "it was unmounted meanwhile" if walker.stopped else "")


class _Walker:
    def __init__(self, go_on: Callable[[], bool]) -> None:
        self._go_on, self._left = go_on, MOST_ENTRIES
        self.files: list[Seen] = []
        self.more = self._full = self.stopped = False

    def beneath(self, fd: int, path: str, depth: int) -> None:
        """What is in one folder, then in those in it. Raises OSError when it cannot be listed."""
        for name in self._names(fd):
            self.stopped = self.stopped or not self._go_on()
            if self._full or self.stopped:
                return
            below = joined(path, name)
            if len(below.encode()) > _MOST_PATH_BYTES:
                continue
            with contextlib.suppress(OSError):  # gone, or not for us
                state = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(state.st_mode):
                    self._add(below, state)
                elif stat.S_ISDIR(state.st_mode) and depth < _MOST_DEPTH:
                    inner = os.open(name, hosts.FOLDER, dir_fd=fd)
                    try:
                        self.beneath(inner, below, depth + 1)
                    finally:
                        os.close(inner)

    def _names(self, fd: int) -> list[str]:
        with os.scandir(fd) as scan:
            names = [entry.name for entry in itertools.islice(scan, self._left + 1)]
        self.more = self.more or len(names) > self._left
        del names[self._left :]
        self._left -= len(names)
        return sorted(name for name in names if _nameable(name))

    def _add(self, path: str, state: os.stat_result) -> None:
        if len(self.files) >= MOST_FILES:
            self.more = self._full = True
        else:
            self.files.append(Seen(path, _state(state, settled=True)))


def read(folder: str, paths: Sequence[str]) -> list[Text]:
    """The text of the first of these, as many as may be read at once; at least of one."""
    found: list[Text] = []
    left = _BYTES_AT_ONCE
    for path in paths:
        found.append(_read(MountInfo("", "", folder, False), path))
        left -= found[-1].taken
        if left <= 0:
            break
    return found


def _read(mount: MountInfo, path: str) -> Text:
    try:
        with hosts.opened(mount, path) as (fd, _):
            found = os.fstat(fd)
            state = _state(found, settled=abs(time.time_ns() - found.st_mtime_ns) > _SETTLED_NS)
            text = text_of(data := hosts.read_all(fd, 0, MOST_TEXT_BYTES))
            if not text:
                return Text(path, state, "")
            return Text(path, state, text, len(data), state.size > len(data))
    except (AiosError, OSError):
        return Text(path, State(0, 0, 0), None)


def _state(state: os.stat_result, settled: bool) -> State:
    """As SQLite can keep it, whatever the file system says."""
    changed = state.st_mtime_ns & _INTEGER if settled else 0
    return State(state.st_size, changed, state.st_ino & _INTEGER)


def _nameable(name: str) -> bool:
    """Whether a path may have it."""
    return (
        hosts.is_text(name)
        and not name.startswith(hosts.PART)
        and not any(c < " " or c == "\x7f" for c in name)
        and len(name.encode()) <= MAX_NAME_BYTES
    )
