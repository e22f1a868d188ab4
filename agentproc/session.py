"""This process's session with the kernel: its credentials, and a connection for each thread.

The boot code sets the credentials of an agent before the agent's code runs. A program started by
hand has none and connects as a guest. Sessions are kept by host pid, so processes never share a
socket: after ``os.fork`` the child is a guest with its own connections.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import zmq

from aios.syscalls import paths
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import KernelUnavailable

if TYPE_CHECKING:
    from .tool import Tool

R = TypeVar("R", bound=msgspec.Struct)


class _Held:
    """One thread's connection. It is closed when the thread ends and drops it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._os_pid = os.getpid()

    def close(self) -> None:
        """Close the connection. Idempotent; does nothing in a forked child."""
        if os.getpid() == self._os_pid:
            self.connection.close()

    __del__ = close


class Session:
    """The connections of one host process. Thread-safe."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._given = credentials
        self._context: zmq.Context[Any] | None = None
        self._local = threading.local()
        self._lock = threading.Lock()
        self.offered: dict[str, Tool[..., Any]] = {}
        """Tools that this process offers, by name, and how many threads serve them."""
        self.servers = 0

    @property
    def credentials(self) -> Credentials:
        """The credentials of this process's connections."""
        return self._given or Credentials(paths.runtime_dir())

    def context(self) -> zmq.Context[Any]:
        """Return the zmq context of this process, created at first use."""
        with self._lock:
            if self._context is None:
                self._context = zmq.Context()
                atexit.register(self.drop)
            return self._context

    def connection(self) -> Connection:
        """Return the calling thread's connection. Raises KernelUnavailable."""
        held: _Held | None = getattr(self._local, "held", None)
        if held is None:
            held = self._local.held = _Held(Connection(self.context(), self.credentials))
        return held.connection

    def drop(self) -> None:
        """Close the calling thread's connection, if any; the next call opens another."""
        held: _Held | None = getattr(self._local, "held", None)
        self._local.held = None
        if held:
            held.close()


class _Holder:
    """Sessions by host pid. A forked child keeps its parent's session untouched."""

    def __init__(self) -> None:
        self.sessions: dict[int, Session] = {}


_holder = _Holder()


def adopt(credentials: Credentials) -> None:
    """Make this process the agent to which the kernel gave the credentials."""
    _holder.sessions[os.getpid()] = Session(credentials)


def current() -> Session:
    """Return the session of this process."""
    known = _holder.sessions.get(os.getpid())
    return known or _holder.sessions.setdefault(os.getpid(), Session())


def call(name: str, body: msgspec.Struct, reply: type[R], timeout: float | None = None) -> R:
    """Make a system call on the calling thread's connection. ``reply``: its type in the table."""
    here = current()
    try:
        return cast(R, here.connection().call(name, body, timeout))
    except KernelUnavailable:
        here.drop()  # a kernel started later is found by the next call
        raise
