"""Trees of host processes: list the children of one, and signal or end all below it.

It reads only /proc, so the zygote and the toolhost need no library for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Container
from pathlib import Path

_MAX_ROUNDS = 100
"""Limit on rounds in which a dying tree may still start processes."""


def children(os_pid: int) -> list[int]:
    """Return the children of a process, zombies included; none if it is gone."""
    try:
        tasks = os.listdir(f"/proc/{os_pid}/task")
        texts = [Path(f"/proc/{os_pid}/task/{task}/children").read_text() for task in tasks]
    except OSError:
        return []
    return [int(word) for text in texts for word in text.split()]


def signal_tree(root: int, number: int) -> None:
    """Signal a process and all below it; repeat until no new process has appeared."""
    seen: set[int] = set()
    for _ in range(_MAX_ROUNDS):
        level, fresh = [root], []
        while level:
            fresh += [os_pid for os_pid in level if os_pid not in seen]
            level = [child for os_pid in level for child in children(os_pid)]
        if not fresh:
            return
        for os_pid in fresh:
            seen.add(os_pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(os_pid, number)
        if number == signal.SIGCONT:
            return


def end_strays(known: Container[int]) -> None:
    """Kill and reap our unknown children: processes that dead ones have left behind."""
    for _ in range(_MAX_ROUNDS):
        strays = [child for child in children(os.getpid()) if child not in known]
        if not strays:
            return
        for stray in strays:
            signal_tree(stray, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray, 0)
