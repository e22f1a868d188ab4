"""The kernel's end of one zygote: its process, the link to it, and the agents that it runs."""

from __future__ import annotations

import logging
import socket
import subprocess
from collections.abc import Callable

from aios.kernel.loop.link import Link
from aios.kernel.loop.loop import Loop, Timer
from aios.syscalls.launch import Fork, Order, Report, Signal, encode, take_report

log = logging.getLogger("aios.launcher")

CLOSE_TIMEOUT_S = 10.0
StartZygote = Callable[[str, socket.socket], "subprocess.Popen[bytes]"]
"""Starts a zygote with an interpreter ('': the kernel's own) at the other end of a socket."""


class Zygote:
    """One zygote. It never blocks: orders that it cannot take yet wait in the link."""

    def __init__(
        self,
        loop: Loop,
        python: str,
        start: StartZygote,
        on_report: Callable[[Zygote, Report], None],
        on_gone: Callable[[Zygote], None],
    ) -> None:
        """Raises OSError if the interpreter cannot be started."""
        self.python = python
        self.pids: set[int] = set()
        """The agents that it has been told to start and whose end it has not reported."""
        self.idle: Timer | None = None
        """Ends it when it has had no agent for long enough."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = start(python, theirs)
            except OSError:
                ours.close()
                raise
        self._link: Link[Order, Report] = Link(
            loop, ours, lambda report: on_report(self, report), lambda: on_gone(self),
            encode, take_report,
        )  # fmt: skip

    @property
    def os_pid(self) -> int:
        """Its host pid."""
        return self._process.pid

    def fork(self, order: Fork) -> None:
        """Start an agent. Raises ValueError if the order is too large."""
        self._link.send(order)
        self.pids.add(order.pid)
        if self.idle:
            self.idle.cancel()

    def signal(self, order: Signal) -> None:
        """Signal an agent."""
        self._link.send(order)

    def kill(self) -> int:
        """Kill it, and so its agents; return its exit status."""
        self._link.close()
        self._process.kill()
        return self._process.wait()

    def hang_up(self) -> None:
        """Have it end itself and all its agents; ``join`` waits for that."""
        self._link.close()

    def join(self) -> None:
        """Wait until it has ended; kill it if it does not end in time."""
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.error("the zygote did not end within %g s; killing it", CLOSE_TIMEOUT_S)
            self._process.kill()
            self._process.wait()
