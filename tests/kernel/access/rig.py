"""An access manager over a process table, with a fake audit log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from aios.kernel.access import groups, rules
from aios.kernel.access.approvals import Approvals, Question
from aios.kernel.access.audit.log import Line
from aios.kernel.access.audit.records import Entry
from aios.kernel.access.grant_file import Grant
from aios.kernel.access.manager import AccessManager
from aios.kernel.access.principals import OPERATOR
from aios.kernel.loop.task import Outcome, start
from aios.kernel.process.table import Process, ProcessTable
from aios.kernel.trap.asker import Asker
from aios.syscalls.errors import (
    AuditUnavailable,
    ConfirmationRequired,
    PermissionDenied,
)
from aios.syscalls.types.process import SpawnRequest


class FakeAudit:
    """Keeps entries; has no space for mutations while ``broken``."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.broken = False

    def append(self, added: Line) -> None:
        if added.mutates and self.broken:
            raise AuditUnavailable("full")
        self.entries.append(added.entry)


class World:
    """A process table and an access manager over it."""

    def __init__(self, folder: Path) -> None:
        self.table, self.audit = ProcessTable(100), FakeAudit()
        self.policy_file = folder / "policy.toml"
        policy = groups.load(self.policy_file)
        self.access = AccessManager(self.table, policy, (), self.audit, Approvals(60))  # type: ignore[arg-type]

    def policy(self, text: str) -> None:
        self.policy_file.write_text(text)
        self.access.use(groups.load(self.policy_file), self.access.standings.grants)

    def grant(self, *pairs: tuple[str, str]) -> None:
        grants = [Grant(n, subject, rule, 0.0) for n, (subject, rule) in enumerate(pairs, 1)]
        self.access.use(self.access.standings.policy, grants)

    def start(self, name: str, parent: Process | None = None, **more: Any) -> Process:
        spec = SpawnRequest(path=f"/bin/{name}.py", name=name, **more)
        pid = parent.pid if parent else OPERATOR
        self.access.check_spawn(Asker(pid), spec)
        process = self.table.create(
            parent=pid, stem=name, command=spec.path, spec=spec, guest=False
        )
        process.program, process.group = spec.path, spec.group or (parent.group if parent else "")
        process.rights, process.added = rules.of_spawn(spec)
        return process

    def may(
        self, process: Process, operation: str, effect: Any = "read", *,
        behalf: tuple[int, ...] = (), arguments: Any = None,
    ) -> str:  # fmt: skip
        kind_action, _, name = operation.partition(":")
        kind, _, action = kind_action.partition(".")
        try:
            self.access.check(
                Asker(process.pid, behalf), kind, action, name, effect, arguments=arguments
            )
        except ConfirmationRequired:
            return "ask"
        except PermissionDenied:
            return "deny"
        return "allow"


def ask(world: World, process: Process, name: str = "rm", arguments: Any = None) -> str:
    with pytest.raises(ConfirmationRequired) as caught:
        world.access.check(Asker(process.pid), "tool", "call", name, None, arguments=arguments)
    assert caught.value.hint.endswith(f"aios approvals approve {caught.value.approval}")
    return caught.value.approval


def approve(world: World, number: str, approve: bool = True, now: float | None = None) -> None:
    """Answer a question as the operator. Raises as the call does."""
    now = time.monotonic() if now is None else now
    answer = world.access.approvals.answer(number, approve, now, time.time())
    start(answer).then(_raise_error)


def _raise_error(outcome: Outcome[Question]) -> None:
    outcome.result()
