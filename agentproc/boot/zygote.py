"""The zygote: a warm interpreter that forks agents and reaps them.

It has one thread, no zmq context, and no open file but its socket. It reports the end of an agent
only when everything that the agent started has ended. When the kernel is gone, it ends all agents
and itself. The kernel starts one in each Python environment that its agents use.
"""

from __future__ import annotations

import asyncio  # noqa: F401  warm for agents
import contextlib
import gc
import json  # noqa: F401  warm for agents
import os
import select
import signal
import socket
import sys
from pathlib import Path

import aios
from aios import aio  # noqa: F401  warm for agents
from aios.syscalls.exits import exit_code
from aios.syscalls.launch import (
    MAX_PACKET_BYTES,
    Exited,
    Fork,
    Forked,
    ForkFailed,
    Report,
    Signal,
    decode_order,
    encode,
)

from .child import become, follow
from .tree import end_strays, signal_tree


class Zygote:
    """The agents, by host pid and by the kernel's pid."""

    def __init__(self, sock: socket.socket, runtime: Path) -> None:
        self._socket, self._runtime = sock, runtime
        self._by_os_pid: dict[int, int] = {}
        self._by_pid: dict[int, int] = {}
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Serve until the kernel is gone; then end all agents."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        alive = True
        while alive:
            for fd, _ in poll.poll():
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    self._reap()
                else:
                    alive = self._obey()
        for os_pid in list(self._by_os_pid):
            signal_tree(os_pid, signal.SIGKILL)
        end_strays(self._by_os_pid)

    def _obey(self) -> bool:
        packet = self._socket.recv(MAX_PACKET_BYTES)
        if not packet:
            return False
        match decode_order(packet):
            case Fork() as order:
                self._fork(order)
            case Signal() as order:
                self._signal(order)
        return True

    def _fork(self, order: Fork) -> None:
        zygote = os.getpid()
        try:
            os_pid = os.fork()
        except OSError as error:
            self._report(ForkFailed(order.pid, str(error)))
            return
        if os_pid == 0:
            gc.enable()
            become(order, self._runtime, zygote)
        self._by_os_pid[os_pid] = order.pid
        self._by_pid[order.pid] = os_pid
        self._report(Forked(order.pid, os_pid))

    def _signal(self, order: Signal) -> None:
        os_pid = self._by_pid.get(order.pid)
        if os_pid is None:
            return
        if order.tree:
            signal_tree(os_pid, order.signal)
        else:
            os.kill(os_pid, order.signal)

    def _reap(self) -> None:
        """Reap every child that has ended; report the agents among them."""
        ended = []
        while (found := _wait_any()) is not None:
            os_pid, status = found
            pid = self._by_os_pid.pop(os_pid, None)
            if pid is not None:
                del self._by_pid[pid]
                ended.append(Exited(pid, exit_code(os.waitstatus_to_exitcode(status))))
        if ended:
            end_strays(self._by_os_pid)
        for report in ended:
            self._report(report)

    def _report(self, report: Report) -> None:
        with contextlib.suppress(OSError):  # the kernel is gone: the next read tells
            self._socket.send(encode(report))


def _wait_any() -> tuple[int, int] | None:
    try:
        os_pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (os_pid, status) if os_pid else None


def main() -> None:
    """Run ``python -m aios.boot.zygote FD RUNTIME_DIR``."""
    fd, runtime = int(sys.argv[1]), Path(sys.argv[2])
    if not follow(os.getppid()):
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    assert aios.__all__
    gc.collect()
    gc.freeze()
    Zygote(socket.socket(fileno=fd), runtime).run()


if __name__ == "__main__":
    main()
