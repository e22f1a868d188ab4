"""Worker processes as the dispatcher sees them: start, kill, limits, sockets and output.

Function workers are forked from the warm dispatcher; the worker of an MCP server is a fresh
interpreter. Each has its own session, so that a kill reaches all that it started.
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

from aios.boot.child import PR_SET_NO_NEW_PRIVS, begin_session, follow, prctl
from aios.syscalls.buffered_socket import BufferedSocket
from aios.syscalls.toolwire import MAX_OUTPUT_BYTES, DescribeSource, RunTool, Source

MAX_MEMORY_BYTES = 2 << 30
"""Limit on the address space of a function worker. MCP servers have none: some reserve more."""
MAX_FILE_BYTES = 1 << 30
MAX_FILES = 256
"""Limit on the open files of a function worker."""
MAX_PRINTED_BYTES = 8 << 20
"""Limit on the output of one call; a call that prints more is killed."""


@dataclass(eq=False)
class Job:
    """An order that has no report yet: a call, or a request to list a source's tools."""

    order: RunTool | DescribeSource
    due_s: float
    started_s: float = 0.0
    output: bytearray = field(default_factory=bytearray)
    printed_bytes: int = 0
    verdict: tuple[str, str] | None = None
    """Code and message of the error for which its worker is being killed."""


@dataclass(eq=False)
class Worker:
    """A process that runs the tools of one source."""

    source: Source
    os_pid: int
    link: BufferedSocket
    out_fd: int
    jobs: dict[int, Job] = field(default_factory=dict)
    inbox: bytearray = field(default_factory=bytearray)
    doomed: bool = False
    used_s: float = 0.0

    @property
    def shared(self) -> bool:
        """True if it runs many calls at once."""
        return self.source.kind == "mcp"

    def kill(self) -> None:
        """Kill the process and its session. The dispatcher reaps it later."""
        self.doomed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.os_pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.os_pid, signal.SIGKILL)  # it may have no session yet

    def read_output(self) -> None:
        """Read what it has printed. Keep the first MAX_OUTPUT_BYTES of each job."""
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
        """Close its descriptors."""
        self.link.socket.close()
        os.close(self.out_fd)


def start(
    source: Source,
    serve: Callable[[socket.socket, Source], None],
    want_write: Callable[[socket.socket, bool], None],
) -> Worker:
    """Start a worker; a forked one runs ``serve``. Raises OSError."""
    ours, theirs = socket.socketpair()
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(out_read, False)
    dispatcher = os.getpid()
    os_pid = os.fork()
    if os_pid == 0:
        _become(source, serve, theirs, out_write, dispatcher)
    theirs.close()
    os.close(out_write)
    link = BufferedSocket(ours, lambda wanted: want_write(ours, wanted))
    return Worker(source, os_pid, link, out_read)


def _become(
    source: Source,
    serve: Callable[[socket.socket, Source], None],
    sock: socket.socket,
    out: int,
    dispatcher: int,
) -> NoReturn:
    code = 1
    try:
        _isolate(dispatcher, limited=source.kind != "mcp")
        null = os.open(os.devnull, os.O_RDONLY)
        for target, fd in ((0, null), (1, out), (2, out), (3, sock.detach())):
            os.dup2(fd, target)
        os.closerange(4, MAX_FILES * 4)
        if source.kind == "mcp":
            module = ["-P", "-m", "aios.toolhost.mcp_worker"]
            os.execv(sys.executable, [sys.executable, *module])
        serve(socket.socket(fileno=3), source)
        code = 0
    finally:
        os._exit(code)


def _isolate(dispatcher: int, *, limited: bool) -> None:
    """Start a session that dies with the dispatcher, gains no privileges, and has limits."""
    begin_session()
    if not follow(dispatcher):
        os._exit(1)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    if limited:
        limit(resource.RLIMIT_NOFILE, MAX_FILES)
        limit(resource.RLIMIT_AS, MAX_MEMORY_BYTES)


def limit(what: int, wanted: int) -> None:
    """Set a resource limit of this process; keep a lower hard limit."""
    _, hard = resource.getrlimit(what)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(what, (wanted, wanted))
