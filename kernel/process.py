"""The process table: every agent the kernel knows, living or lately dead.

Owns pids, names, the tree of parents and the legal transitions of a life. A pid is never used
twice while a kernel lives. It starts and signals nothing: launcher.py does.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aios.syscalls.errors import InvalidArgument, NotFound, ResourceExhausted
from aios.syscalls.types import Class, ExitStatus, SpawnRequest

from .mail import Mailbox
from .request import Request
from .states import Life, next_life

OPERATOR = 0
"""The pid that stands for the operator: parent of what the command line starts."""
MOST_DEAD = 1000


@dataclass(eq=False)
class Process:
    """One agent. ``secret`` is '' for a guest: a program that was not started by the kernel."""

    pid: int
    parent: int
    name: str
    command: str
    klass: Class
    nice: int
    secret: str
    model: str | None = None
    max_tokens: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    log: str = ""
    stdio: tuple[str | None, str | None, str | None] = (None, None, None)

    life: Life = "starting"
    os_pid: int = 0
    started_unix: float = field(default_factory=time.time)
    started_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    exit_code: int | None = None
    reason: str = ""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_reserved: int = 0
    parks: int = 0
    paused_s: float | None = None
    children: set[int] = field(default_factory=set)
    requests: dict[int, Request] = field(default_factory=dict)
    mailbox: Mailbox = field(default_factory=Mailbox)
    on_exit: list[Callable[[ExitStatus], None]] = field(default_factory=list)

    @property
    def living(self) -> bool:
        """It has not ended."""
        return self.life != "dead"

    @property
    def guest(self) -> bool:
        """It was started by hand, not by the kernel."""
        return not self.secret

    def move(self, life: Life) -> None:
        """Go on to another state of life. Raises IllegalTransition."""
        self.life = next_life(self.life, life)

    def status(self) -> ExitStatus:
        """How it ended."""
        assert self.exit_code is not None
        return ExitStatus(self.pid, self.name, self.exit_code, self.reason)


class ProcessTable:
    """All processes, by pid and by name."""

    def __init__(self, most_living: int) -> None:
        self._most_living = most_living
        self._pids = itertools.count(1)
        self._living: dict[int, Process] = {}
        self._by_name: dict[str, Process] = {}
        self._by_os_pid: dict[int, Process] = {}
        self._dead: OrderedDict[int, Process] = OrderedDict()

    def __len__(self) -> int:
        return len(self._living)

    def living(self) -> Iterator[Process]:
        """Those that have not ended, oldest first. The caller may end them while iterating."""
        return iter(list(self._living.values()))

    def all(self) -> Iterator[Process]:
        """The dead that are remembered, then the living."""
        return iter(sorted([*self._dead.values(), *self._living.values()], key=lambda p: p.pid))

    def create(
        self, *, parent: int, stem: str, command: str, spec: SpawnRequest | None, guest: bool
    ) -> Process:
        """A new process in state ``starting``. Raises ResourceExhausted, InvalidArgument."""
        if len(self._living) >= self._most_living:
            raise ResourceExhausted(
                f"{len(self._living)} agents are alive; the limit is {self._most_living}",
                "end some, or start the kernel with a larger one: aios daemon restart --max-agents",
            )
        spec = spec or SpawnRequest(path=command)
        if spec.name is not None and spec.name in self._by_name:
            raise InvalidArgument(
                f"an agent named {spec.name!r} is alive (pid {self._by_name[spec.name].pid})",
                f"choose another --name, or end it with: aios kill {spec.name}",
            )
        name = spec.name or self._free_name(stem)
        process = Process(
            pid=next(self._pids),
            parent=parent,
            name=name,
            command=command,
            klass=spec.klass,
            nice=spec.nice,
            secret="" if guest else secrets.token_urlsafe(24),
            model=spec.model,
            max_tokens=spec.max_tokens,
        )
        self._living[process.pid] = process
        self._by_name[name] = process
        if parent in self._living:
            self._living[parent].children.add(process.pid)
        return process

    def born(self, process: Process, os_pid: int) -> None:
        """It runs as this host process."""
        process.os_pid = os_pid
        self._by_os_pid[os_pid] = process
        if process.life == "starting":
            process.move("alive")

    def buried(self, process: Process, exit_code: int, reason: str) -> None:
        """It has ended. Those who waited for it are told by the caller."""
        process.move("dead")
        process.exit_code, process.reason = exit_code, reason
        process.ended_s = time.monotonic()
        del self._living[process.pid]
        del self._by_name[process.name]
        if self._by_os_pid.get(process.os_pid) is process:
            del self._by_os_pid[process.os_pid]
        if process.parent in self._living:
            self._living[process.parent].children.discard(process.pid)
        self._dead[process.pid] = process
        while len(self._dead) > MOST_DEAD:
            self._dead.popitem(last=False)

    def get(self, pid: int) -> Process | None:
        """The living process of this pid."""
        return self._living.get(pid)

    def by_os_pid(self, os_pid: int) -> Process | None:
        """The living process that runs as this host process."""
        return self._by_os_pid.get(os_pid)

    def resolve(self, ref: str, *, dead: bool = True) -> Process:
        """The process that a pid, a name or a unique prefix of a name means.

        The living come before the dead, the lately dead before the long dead. Raises NotFound,
        or InvalidArgument when several match.
        """
        if ref.isdecimal() and len(ref) < 19:
            found = self._living.get(int(ref)) or (self._dead.get(int(ref)) if dead else None)
        else:
            found = self._by_name.get(ref) or self._by_prefix(ref, list(self._living.values()))
            if found is None and dead:
                latest = {process.name: process for process in self._dead.values()}
                found = latest.get(ref) or self._by_prefix(ref, list(latest.values()))
        if found is None:
            raise NotFound(f"no process {ref!r}", "list them with: aios ps -a")
        return found

    def descends(self, process: Process, ancestor: int) -> bool:
        """Whether the process is the ancestor or was started by it, directly or not."""
        at: Process | None = process
        while at is not None:
            if at.pid == ancestor:
                return True
            at = self._living.get(at.parent) or self._dead.get(at.parent)
        return ancestor == OPERATOR

    def _by_prefix(self, ref: str, among: list[Process]) -> Process | None:
        matches = [process for process in among if process.name.startswith(ref)]
        if len(matches) > 1:
            names = ", ".join(sorted(process.name for process in matches)[:5])
            raise InvalidArgument(f"{ref!r} could be any of {names}", "give more of the name")
        return matches[0] if matches else None

    def _free_name(self, stem: str) -> str:
        kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in stem)
        stem = kept.lstrip("_.-")[:56] or "agent"
        if stem not in self._by_name and not stem.isdecimal():
            return stem
        return next(
            name for n in itertools.count(2) if (name := f"{stem}-{n}") not in self._by_name
        )

    def check(self) -> list[str]:
        """What is wrong with the accounts; empty when all is well."""
        problems = []
        for process in self._living.values():
            if self._by_name.get(process.name) is not process:
                problems.append(f"process {process.pid}: its name {process.name!r} is not its own")
            for child in process.children:
                if child not in self._living:
                    problems.append(f"process {process.pid}: child {child} is not alive")
        if len(self._by_name) != len(self._living):
            problems.append(f"{len(self._by_name)} names for {len(self._living)} processes")
        return problems
