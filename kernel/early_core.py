"""The first core's process, started before the kernel's own modules are imported.

Both take half a second, so they do it at the same time. The process waits for its orders; whoever
starts a core first takes it (``children.CoreProcess``). One that nobody took is ended.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from aios.hw.machine.huge_pages import engine_environment


class CoreStart:
    """A core's process without orders: its end of the link, and the memory for its arena."""

    def __init__(self, arena_fd: int) -> None:
        """Start the process. Raises OSError."""
        self.socket, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), arena_fd)
            module = ["-m", "aios.hw.core.core", "--link", str(fds[0]), "--arena", str(fds[1])]
            self.process = subprocess.Popen(
                [sys.executable, "-P", *module, "--parent", str(os.getpid())],
                pass_fds=fds, stdin=subprocess.DEVNULL, env=engine_environment(),
            )  # fmt: skip


class EarlyCore:
    """A core's process that has been started, and the arena's memory that it holds."""

    def __init__(self) -> None:
        """Start the process. Raises OSError."""
        self.arena_fd = os.memfd_create("aios-kv", os.MFD_CLOEXEC)
        self._start: CoreStart | None = CoreStart(self.arena_fd)

    @property
    def os_pid(self) -> int:
        """Its host pid until it is taken, then 0."""
        return self._start.process.pid if self._start else 0

    def take(self) -> CoreStart | None:
        """Return the process, the first time."""
        start, self._start = self._start, None
        return start

    def end(self) -> None:
        """End the process unless it was taken. Idempotent."""
        start = self.take()
        if start:
            start.socket.close()
            start.process.kill()
            start.process.wait()
