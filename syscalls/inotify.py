"""Wait for changes of files: inotify(7)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

MODIFY, MOVED_TO, CREATE = 0x2, 0x80, 0x100
_CLOEXEC = 0o2000000


def watch(path: Path, events: int) -> int:
    """Return a descriptor that is readable when one of the events happens. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(_CLOEXEC)
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(path), events) < 0:
        error = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise OSError(error, os.strerror(error), str(path))
    return fd
