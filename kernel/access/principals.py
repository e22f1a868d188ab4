"""Principals: processes as the access manager sees them.

The process table belongs to a higher package; it satisfies these protocols.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from .names import Names
from .rules import Rule

OPERATOR = 0
"""The operator's pid: the parent of every agent started from the command line."""
OPERATOR_NAME = "operator"
"""The operator's name in logs and mailboxes; agents cannot have it."""


class Principal(Protocol):
    """A process with rights. See ``Process`` for the fields."""

    @property
    def pid(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def program(self) -> str: ...
    @property
    def guest(self) -> bool: ...
    @property
    def group(self) -> str: ...
    @property
    def rights(self) -> tuple[Rule, ...] | None: ...
    @property
    def added(self) -> tuple[Rule, ...]: ...
    @property
    def asker_os_pid(self) -> int: ...
    @property
    def above(self) -> Principal | None: ...
    @property
    def behalf(self) -> tuple[Principal, ...]: ...
    @property
    def top(self) -> Principal: ...


class Principals(Protocol):
    """All processes. See ``ProcessTable``."""

    @property
    def names(self) -> Names: ...
    def living(self) -> Iterator[Principal]: ...
    def get(self, pid: int) -> Principal | None: ...
    def caller(self, pid: int) -> Principal: ...
    def resolve(self, ref: str, *, dead: bool = True) -> Principal: ...
    def root(self, pid: int) -> str: ...
    def started(self, ancestor: int, pid: int) -> bool: ...


def relation(table: Principals, caller_pid: int, target: Principal) -> str:
    """Return what a process is to a caller: one of ``rules.RELATIONS``."""
    if caller_pid == target.pid:
        return "self"
    if table.started(caller_pid, target.pid):
        return "own"
    caller = table.get(caller_pid)
    return "kin" if caller and caller.top is target.top else "other"
