"""A worker as the dispatcher sees it: its process, its socket, and what it prints.

Function workers are forked from the warm dispatcher; an MCP server's is a fresh interpreter. Each
is a session of its own, so that a kill reaches all it started.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from aios.boot.child import PR_SET_NO_NEW_PRIVS, follow, prctl
from aios.syscalls.toolwire import MAX_OUTPUT_BYTES, DescribeSource, Order, RunTool, Source, encode

MEMORY_BYTES = 2 << 30
"""Address space of a function worker; an MCP server has no such limit (some reserve more)."""
FILE_BYTES = 1 << 30
MOST_FILES = 256
MOST_PRINTED_BYTES = 8 << 20
"""A call that prints more is ended."""


@dataclass(eq=False)
class Job:
    """A call, or a question for a source's tools, from order to report."""

    order: RunTool | DescribeSource
    due_s: float
    started_s: float = 0.0
    output: bytearray = field(default_factory=bytearray)
    printed_bytes: int = 0
    verdict: tuple[str, str] | None = None
    """Why its worker is being killed: an error's code and message."""


@dataclass(eq=False)
class Worker:
    """A process that runs the tools of one source."""

    source: Source
    os_pid: int
    sock: socket.socket
    out_fd: int
    jobs: dict[int, Job] = field(default_factory=dict)
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)
    doomed: bool = False
    used_s: float = 0.0

    @property
    def shared(self) -> bool:
        """It runs many calls at once."""
        return self.source.kind == "mcp"

    def send(self, message: Order) -> bool:
        """Hand over an order, never blocking; whether some of it is still to be sent."""
        self.outbox += encode(message)
        return self.flush()

    def flush(self) -> bool:
        """Send what is left to send. A worker that cannot take it is dead or about to be."""
        try:
            del self.outbox[: self.sock.send(self.outbox, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            pass
        except OSError:
            self.outbox.clear()
        return bool(self.outbox)

    def kill(self) -> None:
        """End it and its session; its burial follows."""
        self.doomed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.os_pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.os_pid, signal.SIGKILL)  # when it has no session yet

    def listen(self) -> None:
        """Take what it has printed; more than a call may print is thrown away."""
        for _ in range(64):
            try:
                part = os.read(self.out_fd, 1 << 16)
            except OSError:
                return
            if not part:
                return
            for job in self.jobs.values():
                job.printed_bytes += len(part)
                job.output += part[: max(0, MAX_OUTPUT_BYTES - len(job.output))]

    def close(self) -> None:
        """Free its descriptors."""
        self.sock.close()
        os.close(self.out_fd)


def start(source: Source, serve: Callable[[socket.socket, Source], None]) -> Worker:
    """A new worker; ``serve`` is what a forked one does. Raises OSError."""
    ours, theirs = socket.socketpair()
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(out_read, False)
    host = os.getpid()
    os_pid = os.fork()
    if os_pid == 0:
        _become(source, serve, theirs, out_write, host)
    theirs.close()
    os.close(out_write)
    return Worker(source, os_pid, ours, out_read)


def _become(
    source: Source,
    serve: Callable[[socket.socket, Source], None],
    sock: socket.socket,
    out: int,
    host: int,
) -> NoReturn:
    code = 1
    try:
        _isolate(host, limited=source.kind != "mcp")
        null = os.open(os.devnull, os.O_RDONLY)
        for target, fd in ((0, null), (1, out), (2, out), (3, sock.detach())):
            os.dup2(fd, target)
        os.closerange(4, MOST_FILES * 4)
        if source.kind == "mcp":
            module = ["-P", "-m", "aios.toolhost.mcp_worker"]
            os.execv(sys.executable, [sys.executable, *module])
        serve(socket.socket(fileno=3), source)
        code = 0
    finally:
        os._exit(code)


def _isolate(host: int, *, limited: bool) -> None:
    """A session that dies with the dispatcher, gains no rights, and has limits."""
    os.setsid()
    if not follow(host):
        os._exit(1)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    if limited:
        limit(resource.RLIMIT_NOFILE, MOST_FILES)
        limit(resource.RLIMIT_AS, MEMORY_BYTES)


def limit(what: int, wanted: int) -> None:
    """Set a limit of this process, or keep one that is lower."""
    _, most = resource.getrlimit(what)
    wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(what, (wanted, wanted))
