"""This process's standing with the kernel: its credentials, and a connection for each thread.

The child boot sets the credentials of an agent before the agent's code runs. A program started by
hand has none and connects as a guest. After ``os.fork`` the child is a guest with new connections:
a socket is never shared between processes.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import zmq

from .syscalls import paths
from .syscalls.client import Connection, Credentials


class Session:
    """Connections of one host process. Thread-safe."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._given = credentials
        self._os_pid = os.getpid()
        self._context: zmq.Context[Any] | None = None
        self._local = threading.local()
        self._lock = threading.Lock()

    @property
    def credentials(self) -> Credentials:
        """What a connection of this process says."""
        if self._given and os.getpid() == self._os_pid:
            return self._given
        return Credentials(paths.runtime_dir())

    def context(self) -> zmq.Context[Any]:
        """The zmq context of this process, made when it is first needed."""
        with self._lock:
            if self._context is None or os.getpid() != self._os_pid:
                if os.getpid() != self._os_pid:
                    self._given = None  # forked: the parent's credentials are not ours
                    self._os_pid = os.getpid()
                self._context = zmq.Context()
            return self._context

    def connection(self) -> Connection:
        """The calling thread's connection. Raises KernelUnavailable."""
        held: tuple[int, Connection] | None = getattr(self._local, "held", None)
        if held and held[0] == os.getpid():
            return held[1]
        context = self.context()
        connection = Connection(context, self.credentials)
        self._local.held = (os.getpid(), connection)
        return connection

    def drop(self) -> None:
        """Close the calling thread's connection, if it has one; the next call makes another."""
        held: tuple[int, Connection] | None = getattr(self._local, "held", None)
        self._local.held = None
        if held and held[0] == os.getpid():
            held[1].close()


class _Holder:
    """The one session of this process; replaced once, by the child boot."""

    def __init__(self) -> None:
        self.session: Session | None = None


_holder = _Holder()


def adopt(credentials: Credentials) -> None:
    """This process is the agent that the kernel gave these credentials to."""
    _holder.session = Session(credentials)


def current() -> Session:
    """The session of this process."""
    if _holder.session is None:
        _holder.session = Session()
    return _holder.session
