"""Files that are in use: notices if one is changed where it lies, or replaced by another.

A model's weights stay mapped while it is served. A file that another takes the place of (by a
rename) leaves them as they are; a file that is written to changes them under the engine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[int, int, int, int]


class FileWatch:
    """Some files, held open from the start, so that each can be told from its successor."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Open the files. Raises OSError."""
        self._held: list[tuple[Path, int, Stamp]] = []
        for path in dict.fromkeys(paths):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._held.append((path, fd, _stamp(os.fstat(fd))))

    def changed(self) -> str:
        """Return the path of a file that was written to or touched since the start, or ''."""
        for path, fd, stamp in self._held:
            if _stamp(os.fstat(fd)) != stamp:
                return str(path)
        return ""

    def replaced(self) -> str:
        """Return the path at which there is now another file, or ''. A removed file is none."""
        for path, _, stamp in self._held:
            try:
                if _stamp(path.stat()) != stamp:
                    return str(path)
            except OSError:
                continue
        return ""

    def close(self) -> None:
        """Close the files. Idempotent."""
        for _, fd, _ in self._held:
            os.close(fd)
        self._held.clear()


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
