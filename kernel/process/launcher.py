"""The launcher: starts agents through zygotes, signals them, and hears how they end.

It keeps one zygote for each Python environment in use. The kernel's own is always there, and is
replaced when it dies. Another is started for its first agent and ended when it has been idle for
some minutes. The death of a zygote ends its own agents and no others. No zygote and no agent
outlives ``close``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.respawn import Respawn
from aios.syscalls.launch import Exited, Fork, ForkFailed, Report, Signal, check_size, interpreter

from .zygote_link import StartZygote, Zygote

log = logging.getLogger("aios.launcher")

IDLE_S = 300.0
"""How long the zygote of an environment other than the kernel's is kept without an agent."""
OWN = ""
"""The interpreter that stands for the kernel's own environment."""


class Launcher:
    """All zygotes, by interpreter and by the pids of their agents."""

    def __init__(
        self,
        loop: Loop,
        start: StartZygote,
        on_report: Callable[[Report], None],
        on_lost: Callable[[Collection[int]], None],
        idle_s: float = IDLE_S,
    ) -> None:
        """``on_lost`` gets the pids of the agents that ended with their zygote."""
        self._loop, self._start, self._idle_s = loop, start, idle_s
        self._on_report, self._on_lost = on_report, on_lost
        self._own_python = interpreter(sys.executable, sys.version_info[:2])
        self._zygotes: dict[str, Zygote] = {}
        self._by_pid: dict[int, Zygote] = {}
        self._respawn = Respawn(loop, self._restart)
        self._waiting: list[Fork | Signal] = []
        """Orders for the kernel's own zygote while there is none."""

    def os_pids(self) -> set[int]:
        """Return the host pids of all zygotes."""
        return {zygote.os_pid for zygote in self._zygotes.values()}

    def open(self) -> None:
        """Start the kernel's own zygote. Raises OSError."""
        self._zygote(OWN)

    def fork(self, python: str, order: Fork) -> None:
        """Start an agent with an interpreter.

        Raises ValueError if the order is too large, OSError if the interpreter cannot be started.
        """
        check_size(order)
        python = OWN if python == self._own_python else python
        if python == OWN and self._respawn.waiting:
            self._waiting.append(order)
            return
        zygote = self._by_pid[order.pid] = self._zygote(python)
        zygote.fork(order)

    def signal(self, order: Signal) -> None:
        """Signal an agent. Does nothing if it has ended."""
        zygote = self._by_pid.get(order.pid)
        if zygote:
            zygote.signal(order)
        elif self._respawn.waiting:
            self._waiting.append(order)

    def close(self) -> None:
        """End all zygotes and with them all agents; wait for that."""
        self._respawn.cancel()
        for zygote in self._zygotes.values():
            zygote.hang_up()
        for zygote in self._zygotes.values():
            zygote.join()
        self._zygotes.clear()

    def _zygote(self, python: str) -> Zygote:
        """Return an interpreter's zygote; start it if there is none. Raises OSError."""
        if python not in self._zygotes:
            self._zygotes[python] = Zygote(
                self._loop, python, self._start, self._reported, self._gone
            )
        return self._zygotes[python]

    def _reported(self, zygote: Zygote, report: Report) -> None:
        if isinstance(report, Exited | ForkFailed):
            zygote.pids.discard(report.pid)
            self._by_pid.pop(report.pid, None)
            if zygote.python != OWN and not zygote.pids:
                due_s = self._loop.now() + self._idle_s
                zygote.idle = self._loop.at(due_s, lambda: self._end(zygote))
        self._on_report(report)

    def _end(self, zygote: Zygote) -> None:
        """End an idle zygote. It has no agent that a kill could reach."""
        del self._zygotes[zygote.python]
        zygote.kill()

    def _gone(self, zygote: Zygote) -> None:
        del self._zygotes[zygote.python]
        log.error("the zygote of %s ended (exit status %d)",
                  zygote.python or self._own_python, zygote.kill())  # fmt: skip
        for pid in zygote.pids:
            self._by_pid.pop(pid, None)
        if zygote.idle:
            zygote.idle.cancel()
        if zygote.python == OWN:
            self._respawn.died()
        self._on_lost(zygote.pids)

    def _restart(self) -> None:
        """Replace the kernel's own zygote, and give it the orders that wait."""
        try:
            self.open()
        except OSError as error:
            log.error("no zygote can be started: %s", error)
            self._respawn.died()
            return
        waiting, self._waiting = self._waiting, []
        for order in waiting:
            if isinstance(order, Fork):
                self.fork(OWN, order)
            else:
                self.signal(order)
