"""Ending a process together with its parent: no part of the kernel outlives it."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
"""Opened at once, as a child calls it between fork and exec."""


def die_with_parent(parent_pid: int) -> None:
    """Have the host kill this process when its parent ends; exit now if that has happened."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit(1)
