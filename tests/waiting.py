"""Waiting in tests. Every wait ends as soon as its condition holds, or fails with a clear message.

The deadline only tells a hang from a slow machine, so it is generous and grows with the load.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from time import monotonic, sleep
from typing import Protocol, TypeVar

T = TypeVar("T")

TIMEOUT_S = 360
"""Limit on a child process, in seconds."""
DEADLINE_S, _MAX_DEADLINE_S = 30.0, 150.0
"""Limit on a wait on an idle machine, and on the busiest one, in seconds."""
_PAUSE_S = 0.01


def deadline_s() -> float:
    """Return the limit on a wait: longer on a machine with more runnable processes than CPUs."""
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(DEADLINE_S * max(1.0, busy), _MAX_DEADLINE_S)


def wait_until(
    condition: Callable[[], T | None],
    what: str,
    turn: Callable[[], object] = lambda: sleep(_PAUSE_S),
) -> T:
    """Return the first true value of the condition. ``turn`` runs between two looks at it.

    Raises AssertionError, which names ``what`` was awaited, after the deadline.
    """
    limit_s = deadline_s()
    end_s = monotonic() + limit_s
    while not (found := condition()):
        assert monotonic() < end_s, f"waited {limit_s:.0f} s in vain for {what}"
        turn()
    return found


class _Loop(Protocol):
    def turn(self, most_ms: int) -> None: ...


def turn_until(loop: _Loop, condition: Callable[[], T | None], what: str) -> T:
    """Serve a loop of the kernel until the condition holds; its first true value."""
    return wait_until(condition, what, lambda: loop.turn(100))


def wait_for_end(os_pid: int) -> None:
    """Wait until a process of the host has ended; it may be no child of this one."""
    try:
        fd = os.pidfd_open(os_pid)
    except ProcessLookupError:
        return
    try:
        wait_readable(fd, f"the end of host process {os_pid}")
    finally:
        os.close(fd)


def wait_readable(fd: int, what: str) -> None:
    """Wait until a descriptor can be read or is at its end."""
    limit_s = deadline_s()
    assert select.select([fd], [], [], limit_s)[0], f"waited {limit_s:.0f} s in vain for {what}"
