"""Host processes by host pid: ancestors, resource usage, signals, and notice of their end."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection

import psutil

from aios.kernel.loop.loop import Loop

log = logging.getLogger("aios.supervisor")

_MAX_ROUNDS = 100
_STRAY_TIMEOUT_S = 1.0


def ancestors(os_pid: int) -> list[int]:
    """Return the host pids of a process's ancestors, the nearest first; none if it has ended."""
    try:
        return [parent.pid for parent in psutil.Process(os_pid).parents()]
    except psutil.Error:
        return []


def usage(os_pid: int) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of one process; zeros if it has ended."""
    try:
        host = psutil.Process(os_pid)
        times = host.cpu_times()
        return times.user + times.system, host.memory_info().rss
    except psutil.Error:
        return 0.0, 0


def signal(os_pid: int, number: int, tree: bool) -> None:
    """Send a signal to a process, with ``tree`` also to its descendants."""
    try:
        host = psutil.Process(os_pid)
        for target in [host, *(host.children(recursive=True) if tree else [])]:
            target.send_signal(number)
    except psutil.Error:
        log.info("host process %d ended before a signal reached it", os_pid)


def watch(loop: Loop, os_pid: int, gone: Callable[[], None]) -> None:
    """Call ``gone`` once, when a process ends or if it has ended already."""
    try:
        fd = os.pidfd_open(os_pid)
    except OSError:
        loop.after(0.0, gone)
        return

    def ended(_: int) -> None:
        loop.unwatch(fd)
        os.close(fd)
        gone()

    loop.watch(fd, ended)


def kill_strays(known: Collection[int]) -> None:
    """Kill the kernel's children that are not ``known``: orphans of a dead zygote or tool host."""
    for _ in range(_MAX_ROUNDS):  # each round orphans the children of those it kills
        strays = [child for child in psutil.Process().children() if child.pid not in known]
        if not strays:
            return
        for child in strays:
            try:
                child.kill()
                child.wait(_STRAY_TIMEOUT_S)
            except psutil.TimeoutExpired:
                log.error("host process %d does not end after SIGKILL", child.pid)
                return
            except psutil.NoSuchProcess:
                continue
