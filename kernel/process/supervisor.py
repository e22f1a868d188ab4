"""The supervisor: the life of an agent from spawn to burial.

Promises that everything an agent started ends with it: its requests, its calls, the agents it
spawned and, through the zygote, its host processes. An attached agent ends with the command to
which it is attached. The end of a guest is noticed.
"""

from __future__ import annotations

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

from . import host
from .launcher import Launcher
from .table import Process, ProcessTable
from .work import Work

MAX_COMMAND = 4096
"""Characters of a command line that are kept."""
KILLED = 128 + signal.SIGKILL
NOT_STARTED = 125
"""Exit code of an agent that could not be started."""
TIMEOUT_GRACE_S = 5.0
"""Time that an agent has to end after its timeout, before it is killed."""


class Supervisor:
    """Acts on processes; the table remembers them."""

    def __init__(
        self, loop: Loop, table: ProcessTable, log_dir: Path, runtime: Path, launcher: Launcher,
        work: Work, spared: Callable[[], Collection[int]],
        on_killed: Callable[[Process], None], on_buried: Callable[[Process], None],
    ) -> None:  # fmt: skip
        """``spared`` returns the host pids of the kernel's children that are not agents.
        ``on_killed`` is called before a process is killed, ``on_buried`` after one has ended."""
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

        ``owner_os_pid``: the host process of the operator's command. An agent that the operator
        starts with its output in a FIFO is attached, and ends with that process.
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
            self._bury(process, NOT_STARTED, str(error))
            hint = "pass fewer arguments, or the path of a file"
            if isinstance(error, OSError):
                hint = f"no zygote can be started with {process.python}; try: aios run --python"
            raise InvalidArgument(str(error), hint) from None
        if spec.timeout_s is not None:
            self._set_timer(process, spec.timeout_s, lambda: self._out_of_time(process))
        if attached and parent == OPERATOR:
            process.asker_os_pid = owner_os_pid if spec.asks else 0
            self.watch_host(owner_os_pid, lambda: self._owner_gone(process))
        return started

    def _enter(self, parent_pid: int, spec: SpawnRequest) -> Process:
        """Add a process to the table, with the attributes that it inherits from its parent."""
        parent = self._table.get(parent_pid)
        if parent_pid != OPERATOR and parent is None:
            raise NotFound(f"pid {parent_pid} has ended")
        process = self._table.create(
            parent=parent_pid, stem=Path(spec.path).stem, spec=spec, guest=False,
            command=" ".join([spec.path, *spec.args])[:MAX_COMMAND],
        )  # fmt: skip
        process.program, process.group = spec.path, spec.group or ""
        process.rights, process.added = rules.of_spawn(spec)
        process.log = str(self._log_dir / f"{process.pid}-{process.name}.log")
        process.stdio = (spec.stdin, spec.stdout, spec.stderr)
        process.cwd = spec.cwd or (parent.cwd if parent else "/")
        process.env = {**(parent.env if parent else {}), **spec.env}
        process.env["AIOS_RUNTIME_DIR"] = str(self._runtime)
        process.python = parent.python if parent else spec.python or ""
        if parent:
            process.stdio = (None, *parent.stdio[1:])
            process.model = spec.model or parent.model
            process.klass = max(spec.klass, parent.klass, key=policy.RANKS.__getitem__)
            process.nice = max(spec.nice, parent.nice)
            process.account = parent.account
            process.group = spec.group or parent.group
        return process

    def adopt_guest(self, os_pid: int) -> Process:
        """Return the process of a program started by hand; add it if new. Raises AiosError."""
        known = self._table.by_os_pid(os_pid)
        if known:
            return known
        try:
            line = psutil.Process(os_pid).cmdline()
        except psutil.Error:
            raise NotFound(f"host process {os_pid} has ended") from None
        parent = self.agent_above(os_pid)
        process = self._table.create(
            parent=parent.pid if parent else OPERATOR, spec=None, guest=True,
            stem=next((Path(word).stem for word in line[1:] if word.endswith(".py")), "guest"),
            command=" ".join(line)[:MAX_COMMAND],
        )  # fmt: skip
        process.program = process.command
        self._table.born(process, os_pid)
        self.watch_host(os_pid, lambda: self._bury(process, 0, "ended (its exit code is unknown)"))
        return process

    def agent_above(self, os_pid: int) -> Process | None:
        """Return the agent that a host process is, or descends from."""
        line = [os_pid, *host.ancestors(os_pid)]
        return next((p for pid in line if (p := self._table.by_os_pid(pid))), None)

    def is_ours(self, os_pid: int) -> bool:
        """Tell whether a host process descends from the kernel, as those of agents and tools do."""
        return os.getpid() in host.ancestors(os_pid)

    def on_report(self, report: Report) -> None:
        """Act on a zygote's report of a start, a failed start or an exit."""
        process = self._table.get(report.pid)
        if process is None:
            return
        started = self._starting.pop(report.pid, None)
        match report:
            case Forked():
                self._table.born(process, report.os_pid)
                reply = SpawnReply(process.pid, process.name, report.os_pid, process.log)
                if started:
                    started.resolve(reply)
            case ForkFailed():
                self._bury(process, NOT_STARTED, report.reason)
                if started:
                    started.reject(ResourceExhausted(f"cannot start an agent: {report.reason}"))
            case Exited():
                code = report.exit_code
                how = exits.describe(exits.return_code(code)) if code else "ended"
                self._bury(process, code, process.reason or how)

    def on_zygote_lost(self, pids: Collection[int]) -> None:
        """Bury the agents that ended with their zygote."""
        for process in self._table.living():
            if process.pid in pids:
                started = self._starting.pop(process.pid, None)
                self._bury(process, KILLED, "the zygote died")
                if started:
                    started.reject(ResourceExhausted("the zygote died; try again",
                                                     "the kernel's log says why"))  # fmt: skip
        self.reap_strays()

    def reap_strays(self) -> None:
        """Kill the host processes that a dead zygote or tool host has left behind."""
        host.kill_strays(self._launcher.os_pids() | set(self._spared()))

    # ------------------------------------------------------------------ signals

    def kill(self, process: Process, reason: str) -> None:
        """End a process and all its descendants at once. Raises IllegalState."""
        if process.life == "dead":
            raise IllegalState(f"pid {process.pid} ({process.name}) has ended already")
        if process.life != "ending":
            process.move("ending")
            process.reason = reason
        self._on_killed(process)  # first, so that it does not see its requests fail
        self._cancel_work(process, Cancelled(f"pid {process.pid} was killed"))
        for child in list(process.children):
            other = self._table.get(child)
            if other:
                self.kill(other, f"its parent, pid {process.pid}, was killed")
        self._signal(process, signal.SIGKILL, tree=True)

    def stop(self, process: Process, grace_s: float, reason: str) -> None:
        """Send SIGTERM, and kill the process after ``grace_s`` seconds. Raises IllegalState."""
        if process.life in ("ending", "dead"):
            raise IllegalState(f"pid {process.pid} ({process.name}) is {process.life} already")
        if process.life == "paused":
            self.resume(process)
        process.reason = reason
        self._signal(process, signal.SIGTERM, tree=False)
        self._set_timer(process, grace_s, lambda: self.kill(process, reason + ", then killed"))

    def pause(self, process: Process) -> None:
        """Stop a process's host processes and hold its requests. Raises IllegalState."""
        if process.life != "alive":
            raise IllegalState(f"pid {process.pid} ({process.name}) is {process.life}, not alive")
        process.move("paused")
        process.paused_s = self._loop.now()
        self._signal(process, signal.SIGSTOP, tree=True)
        for request in list(process.requests.values()):
            self._work.hold(request)

    def resume(self, process: Process) -> float:
        """Continue a paused process; return the seconds it was paused. Raises IllegalState."""
        if process.life != "paused" or process.paused_s is None:
            raise IllegalState(f"pid {process.pid} ({process.name}) is {process.life}, not paused")
        process.move("alive")
        paused_s, process.paused_s = self._loop.now() - process.paused_s, None
        self._signal(process, signal.SIGCONT, tree=True)
        for request in list(process.requests.values()):
            self._work.unhold(request)
        return paused_s

    def end_all(self, reason: str) -> None:
        """Cancel the work of every process; closing the launcher ends the agents, not guests."""
        for process in self._table.living():
            self._cancel_work(process, Cancelled(reason))
            if process.life not in ("ending", "dead"):
                process.reason = reason

    def _signal(self, process: Process, number: int, tree: bool) -> None:
        if process.guest:
            host.signal(process.os_pid, number, tree)
        else:
            self._launcher.signal(Signal(process.pid, number, tree))

    # ------------------------------------------------------------------ death

    def watch_host(self, os_pid: int, gone: Callable[[], None]) -> None:
        """Call ``gone`` once, when a host process ends."""
        host.watch(self._loop, os_pid, gone)

    def _owner_gone(self, process: Process) -> None:
        if process.life not in ("ending", "dead"):
            self.kill(process, "the command to which it was attached ended")

    def _out_of_time(self, process: Process) -> None:
        if process.life in ("alive", "paused", "starting"):
            self.stop(process, TIMEOUT_GRACE_S, "its --timeout passed")

    def _set_timer(self, process: Process, after_s: float, callback: Callable[[], None]) -> None:
        """Replace the process's timer; burial cancels it."""
        self._cancel_timer(process)
        self._timers[process.pid] = self._loop.after(after_s, callback)

    def _cancel_timer(self, process: Process) -> None:
        timer = self._timers.pop(process.pid, None)
        if timer:
            timer.cancel()

    def _bury(self, process: Process, exit_code: int, reason: str) -> None:
        if process.life == "dead":
            return
        self._cancel_timer(process)
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
