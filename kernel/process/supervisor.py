"""The supervisor: the lives of agents from spawn to burial.

Promises that whatever an agent started ends with it: its requests, its calls, the agents it
spawned and (through the zygote) its host processes; that an attached agent ends with the program
it is attached to; and that a guest is noticed when it ends.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

from aios.kernel.access import rules
from aios.kernel.access.principals import OPERATOR
from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.task import Promise
from aios.kernel.scheduler import policy
from aios.syscalls import exits
from aios.syscalls.errors import (
    AiosError,
    Cancelled,
    IllegalState,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from aios.syscalls.launch import Exited, Fork, Forked, ForkFailed, Report, Signal
from aios.syscalls.types.process import SpawnReply, SpawnRequest

from .launcher import Launcher
from .table import Process, ProcessTable
from .work import Work

log = logging.getLogger("aios.supervisor")

KILLED = 128 + signal.SIGKILL
_MOST_ROUNDS = 100
_STRAY_TIMEOUT_S = 1.0


class Supervisor:
    """Acts on processes; the table remembers them."""

    def __init__(
        self,
        loop: Loop,
        table: ProcessTable,
        log_dir: Path,
        runtime: Path,
        launcher: Launcher,
        work: Work,
        spared: Callable[[], Collection[int]],
        on_killed: Callable[[Process], None],
        on_buried: Callable[[Process], None],
    ) -> None:
        """``spared``: host pids of the kernel's children that are no agents. ``on_killed`` is told
        of a process that is about to be killed, ``on_buried`` of one that has ended."""
        self._loop, self._table, self._work = loop, table, work
        self._log_dir, self._runtime, self._launcher = log_dir, runtime, launcher
        self._spared, self._on_killed, self._on_buried = spared, on_killed, on_buried
        self._starting: dict[int, Promise[SpawnReply]] = {}
        self._timers: dict[int, Timer] = {}

    # ------------------------------------------------------------------ birth

    def spawn(
        self, parent: int, owner_os_pid: int, spec: SpawnRequest, behalf: tuple[Process, ...] = ()
    ) -> Promise[SpawnReply]:
        """Start an agent. Raises AiosError.

        ``owner_os_pid``: the host process of an operator; an agent whose output goes to a FIFO of
        its ends with it.
        """
        process = self._enter(parent, spec)
        process.behalf = behalf
        started = self._starting[process.pid] = Promise()
        attached = any(_is_fifo(path) for path in process.stdio[1:])
        stdin, stdout, stderr = process.stdio
        try:
            self._launcher.fork(process.python, Fork(
                pid=process.pid, user=str(process.pid), secret=process.secret, name=process.name,
                path=spec.path, args=spec.args, cwd=process.cwd, env=process.env,
                stdin=stdin, stdout=stdout or process.log, stderr=stderr or process.log,
                log=process.log,
            ))  # fmt: skip
        except (ValueError, OSError) as error:
            del self._starting[process.pid]
            self._bury(process, 125, str(error))
            hint = "give it less, or pass a file's path"
            if isinstance(error, OSError):
                hint = f"no zygote can be started with {process.python}; try: aios run --python"
            raise InvalidArgument(str(error), hint) from None
        if spec.timeout_s is not None:
            self._timers[process.pid] = self._loop.after(
                spec.timeout_s, lambda: self._out_of_time(process)
            )
        if attached and parent == OPERATOR:
            process.asker_os_pid = owner_os_pid if spec.asks else 0
            self.watch_host(owner_os_pid, lambda: self._owner_gone(process))
        return started

    def _enter(self, parent: int, spec: SpawnRequest) -> Process:
        """Enter it in the process table, with what it inherits from its parent."""
        mother = self._table.get(parent)
        if parent != OPERATOR and mother is None:
            raise NotFound(f"pid {parent} has ended")
        process = self._table.create(
            parent=parent,
            stem=Path(spec.path).stem,
            command=" ".join([spec.path, *spec.args])[:4096],
            spec=spec,
            guest=False,
        )
        process.program, process.group = spec.path, spec.group or ""
        process.rights, process.added = rules.of_spawn(spec)
        process.log = str(self._log_dir / f"{process.pid}-{process.name}.log")
        process.stdio = (spec.stdin, spec.stdout, spec.stderr)
        process.cwd = spec.cwd or (mother.cwd if mother else "/")
        process.env = {**(mother.env if mother else {}), **spec.env}
        process.env["AIOS_RUNTIME_DIR"] = str(self._runtime)
        process.python = mother.python if mother else spec.python or ""
        if mother:
            process.stdio = (None, *mother.stdio[1:])
            process.model = spec.model or mother.model
            process.klass = max(spec.klass, mother.klass, key=policy.RANKS.__getitem__)
            process.nice = max(spec.nice, mother.nice)
            process.account = mother.account
            process.group = spec.group or mother.group
        return process

    def adopt_guest(self, os_pid: int) -> Process:
        """The process of a program that was started by hand and connects. Raises AiosError."""
        known = self._table.by_os_pid(os_pid)
        if known:
            return known
        try:
            host = psutil.Process(os_pid)
            command = " ".join(host.cmdline())
            stem = next((Path(a).stem for a in host.cmdline()[1:] if a.endswith(".py")), "guest")
        except psutil.Error:
            raise NotFound(f"host process {os_pid} has ended") from None
        parent = self.agent_above(os_pid)
        process = self._table.create(
            parent=parent.pid if parent else OPERATOR,
            stem=stem,
            command=command[:4096],
            spec=None,
            guest=True,
        )
        process.program = command[:4096]
        self._table.born(process, os_pid)
        self.watch_host(os_pid, lambda: self._bury(process, 0, "ended (its exit code is unknown)"))
        return process

    def agent_above(self, os_pid: int) -> Process | None:
        """The agent that this host process is, or descends from."""
        line = [os_pid, *_ancestors(os_pid)]
        return next((p for pid in line if (p := self._table.by_os_pid(pid))), None)

    def is_ours(self, os_pid: int) -> bool:
        """Whether this host process descends from the kernel: an agent's, a tool's, a server's."""
        return os.getpid() in _ancestors(os_pid)

    def on_report(self, report: Report) -> None:
        """News from the zygote."""
        process = self._table.get(report.pid)
        if process is None:
            return
        started = self._starting.pop(report.pid, None)
        match report:
            case Forked():
                self._table.born(process, report.os_pid)
                if started:
                    started.resolve(
                        SpawnReply(process.pid, process.name, report.os_pid, process.log)
                    )
            case ForkFailed():
                self._bury(process, 125, report.reason)
                if started:
                    started.reject(ResourceExhausted(f"cannot start an agent: {report.reason}"))
            case Exited():
                self._bury(process, report.exit_code, process.reason or _how(report.exit_code))

    def on_zygote_lost(self, pids: Collection[int]) -> None:
        """Bury the agents that ended with their zygote."""
        for process in self._table.living():
            if process.pid in pids:
                started = self._starting.pop(process.pid, None)
                self._bury(process, KILLED, "the zygote died")
                if started:
                    started.reject(ResourceExhausted(
                        "the zygote died; try again", "the kernel's log says why"
                    ))  # fmt: skip
        self.reap_strays()

    def reap_strays(self) -> None:
        """End host processes that a dead zygote or toolhost has left behind; they are the kernel's
        children now."""
        known = self._launcher.os_pids() | set(self._spared())
        for _ in range(_MOST_ROUNDS):  # what they had started comes to us in turn
            strays = [child for child in psutil.Process().children() if child.pid not in known]
            if not strays:
                return
            for child in strays:
                try:
                    child.kill()
                    child.wait(_STRAY_TIMEOUT_S)
                except psutil.TimeoutExpired:
                    log.error("host process %d was killed and does not end", child.pid)
                    return
                except psutil.NoSuchProcess:
                    continue

    # ------------------------------------------------------------------ signals

    def kill(self, process: Process, reason: str) -> None:
        """End it and all it started, now."""
        if process.life == "dead":
            raise IllegalState(f"pid {process.pid} ({process.name}) has ended already")
        if process.life != "ending":
            process.move("ending")
            process.reason = reason
        self._on_killed(process)  # before its requests end: it must not live to see that
        self._cancel_work(process, Cancelled(f"pid {process.pid} was killed"))
        for child in list(process.children):
            other = self._table.get(child)
            if other:
                self.kill(other, f"its parent, pid {process.pid}, was killed")
        self._signal(process, signal.SIGKILL, tree=True)

    def stop(self, process: Process, grace_s: float, reason: str) -> None:
        """Ask it to end, and kill it when it has not after ``grace_s``."""
        if process.life in ("ending", "dead"):
            raise IllegalState(f"pid {process.pid} ({process.name}) is {process.life} already")
        if process.life == "paused":
            self.resume(process)
        process.reason = reason
        self._signal(process, signal.SIGTERM, tree=False)
        self._replace_timer(process, grace_s, lambda: self.kill(process, reason + ", then killed"))

    def pause(self, process: Process) -> None:
        """Freeze its host processes, its requests and its deadlines."""
        if process.life != "alive":
            raise IllegalState(f"pid {process.pid} ({process.name}) is {process.life}, not alive")
        process.move("paused")
        process.paused_s = self._loop.now()
        self._signal(process, signal.SIGSTOP, tree=True)
        for request in list(process.requests.values()):
            self._work.hold(request)

    def resume(self, process: Process) -> float:
        """Let it go on; returns for how long it was paused."""
        if process.life != "paused" or process.paused_s is None:
            raise IllegalState(f"pid {process.pid} ({process.name}) is {process.life}, not paused")
        process.move("alive")
        paused_s, process.paused_s = self._loop.now() - process.paused_s, None
        self._signal(process, signal.SIGCONT, tree=True)
        for request in list(process.requests.values()):
            self._work.unhold(request)
        return paused_s

    def end_all(self, reason: str) -> None:
        """End every agent; guests only lose the kernel."""
        for process in self._table.living():
            self._cancel_work(process, Cancelled(reason))
            if process.life not in ("ending", "dead"):
                process.reason = reason

    def _signal(self, process: Process, number: int, tree: bool) -> None:
        if not process.guest:
            self._launcher.signal(Signal(process.pid, number, tree))
            return
        try:
            host = psutil.Process(process.os_pid)
            for target in [host, *(host.children(recursive=True) if tree else [])]:
                target.send_signal(number)
        except psutil.Error:
            log.info("guest %d has ended before a signal reached it", process.pid)

    # ------------------------------------------------------------------ death

    def watch_host(self, os_pid: int, gone: Callable[[], None]) -> None:
        """Call ``gone`` once, when a host process ends that need not be our child."""
        try:
            fd = os.pidfd_open(os_pid)
        except OSError:
            self._loop.after(0.0, gone)
            return

        def ended(_: int) -> None:
            self._loop.unwatch(fd)
            os.close(fd)
            gone()

        self._loop.watch(fd, ended)

    def _owner_gone(self, process: Process) -> None:
        if process.life not in ("ending", "dead"):
            self.kill(process, "the command it was attached to ended")

    def _out_of_time(self, process: Process) -> None:
        if process.life in ("alive", "paused", "starting"):
            self.stop(process, 5.0, "its --timeout passed")

    def _replace_timer(
        self, process: Process, after_s: float, callback: Callable[[], None]
    ) -> None:
        old = self._timers.pop(process.pid, None)
        if old:
            old.cancel()

        def due() -> None:
            if process.life != "dead":
                callback()

        self._timers[process.pid] = self._loop.after(after_s, due)

    def _bury(self, process: Process, exit_code: int, reason: str) -> None:
        if process.life == "dead":
            return
        timer = self._timers.pop(process.pid, None)
        if timer:
            timer.cancel()
        self._cancel_work(process, Cancelled(f"pid {process.pid} has ended"))
        for child in list(process.children):
            other = self._table.get(child)
            if other and other.life != "ending":
                self.kill(other, f"its parent, pid {process.pid}, ended")
        self._table.buried(process, exit_code, reason)
        self._on_buried(process)
        waiting, process.on_exit = process.on_exit, []
        for promise in waiting:
            promise.resolve(process.status())

    def _cancel_work(self, process: Process, error: AiosError) -> None:
        for request in list(process.requests.values()):
            self._work.cancel(request, error)


def _is_fifo(path: str | None) -> bool:
    try:
        return path is not None and stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _how(exit_code: int) -> str:
    return exits.describe(exits.return_code(exit_code)) if exit_code else "ended"


def _ancestors(os_pid: int) -> list[int]:
    try:
        return [parent.pid for parent in psutil.Process(os_pid).parents()]
    except psutil.Error:
        return []
