"""Walking mounted folders for search: which files there are, and their text. Blocks.

Every step is taken as in files/mount.py, so nothing outside is seen. Left out is what ``aios.fs``
cannot name, what is neither a file nor a folder, and what cannot be read. Everything is bounded,
because a mount may be a whole disk.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aios.kernel.storage.files import mount as hosts
from aios.kernel.storage.files.paths import MAX_DEPTH, MAX_NAME_BYTES, MAX_PATH_BYTES, joined
from aios.syscalls.errors import AiosError
from aios.syscalls.types.storage import MountInfo

from .text import MAX_TEXT_BYTES, decode

MAX_FILES = 10_000
"""Limit on searched files of one mount, in order of their paths."""
MAX_ENTRIES = 100_000
"""Limit on entries of one mount that are looked at, of any kind."""
_MAX_DEPTH = MAX_DEPTH - 2
_MAX_PATH_BYTES = MAX_PATH_BYTES - 80
"""Leaves room for ``/mnt`` and the mount's name."""
_SETTLED_S = 2.0
"""Age of a change after which another change shows in the file's time."""
_BYTES_AT_ONCE = 1 << 20
_INTEGER = (1 << 63) - 1


class State(NamedTuple):
    """Fields of a file that change with its content. ``changed``: ns; 0: not reliable."""

    size: int
    changed: int
    inode: int


class Seen(NamedTuple):
    """A regular file below a mounted folder."""

    path: str
    state: State


class Walk(NamedTuple):
    """The files of a folder. ``more``: there are others beyond a limit. ``reason``: why the folder
    itself cannot be read, or ''."""

    files: list[Seen]
    more: bool
    reason: str


class Text(NamedTuple):
    """A file as it was read. ``text``: '' when it is no text, None when it cannot be read.
    ``taken``: bytes of text. ``cut``: there is more of it."""

    path: str
    state: State
    text: str | None
    taken: int = 0
    cut: bool = False


def walk(folder: str, go_on: Callable[[], bool]) -> Walk:
    """Return all files below a folder. Stops when ``go_on`` returns False."""
    walker = _Walker(go_on)
    try:
        with hosts.root(folder) as fd:
            walker.beneath(fd, "", 1)
    except OSError as error:
        return Walk([], False, error.strerror or str(error))
    return Walk(walker.files, walker.more, "it was unmounted meanwhile" if walker.stopped else "")


class _Walker:
    def __init__(self, go_on: Callable[[], bool]) -> None:
        self._go_on, self._left = go_on, MAX_ENTRIES
        self.files: list[Seen] = []
        self.more = self._full = self.stopped = False

    def beneath(self, fd: int, path: str, depth: int) -> None:
        """Collect files, depth first. Raises OSError when the folder cannot be listed."""
        for name in self._names(fd):
            self.stopped = self.stopped or not self._go_on()
            if self._full or self.stopped:
                return
            below = joined(path, name)
            if len(below.encode()) > _MAX_PATH_BYTES:
                continue
            with contextlib.suppress(OSError):  # gone, or not permitted
                state = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(state.st_mode):
                    self._add(below, state)
                elif stat.S_ISDIR(state.st_mode) and depth < _MAX_DEPTH:
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
        if len(self.files) >= MAX_FILES:
            self.more = self._full = True
        else:
            self.files.append(Seen(path, _state(state, settled=True)))


def read(folder: str, paths: Sequence[str], unix: Callable[[], float]) -> list[Text]:
    """Read the first of these files, until a batch is full; at least one. ``unix``: the clock."""
    found: list[Text] = []
    left = _BYTES_AT_ONCE
    for path in paths:
        found.append(_read(MountInfo("", "", folder, False), path, unix()))
        left -= found[-1].taken
        if left <= 0:
            break
    return found


def _read(mount: MountInfo, path: str, now_unix: float) -> Text:
    try:
        with hosts.opened(mount, path) as (fd, _):
            found = os.fstat(fd)
            state = _state(found, settled=abs(now_unix - found.st_mtime) > _SETTLED_S)
            text = decode(data := hosts.read_all(fd, 0, MAX_TEXT_BYTES))
            if not text:
                return Text(path, state, "")
            return Text(path, state, text, len(data), state.size > len(data))
    except (AiosError, OSError):
        return Text(path, State(0, 0, 0), None)


def _state(state: os.stat_result, settled: bool) -> State:
    """Return a state in the range of SQLite's integers."""
    changed = state.st_mtime_ns & _INTEGER if settled else 0
    return State(state.st_size, changed, state.st_ino & _INTEGER)


def _nameable(name: str) -> bool:
    """Return True if a path may have this name."""
    return (
        hosts.is_text(name)
        and not name.startswith(hosts.PART)
        and not any(c < " " or c == "\x7f" for c in name)
        and len(name.encode()) <= MAX_NAME_BYTES
    )
