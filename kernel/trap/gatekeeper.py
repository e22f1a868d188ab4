"""The access manager and the audit log as the trap, which is below them, sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aios.syscalls.errors import AuditUnavailable
from aios.syscalls.table import Call

from .asker import Asker

CONTINUING = frozenset({"tool.next", "tool.answer"})
"""Calls that hand on or end a tool call, which has a record of its own."""


class Gatekeeper(Protocol):
    """Decides on calls; ``AccessManager``."""

    def check_call(self, asker: Asker, call: Call) -> None:
        """Raises AiosError unless the caller may make this call."""

    def ask_operator(
        self, asker: Asker, question: str, answered: Callable[[], None]
    ) -> Callable[[], None] | None:
        """Let a call wait for the operator's answer. Return a function that calls it off; None
        when no operator sits at the caller's terminal."""

    def call_ended(self, asker: Asker) -> None:
        """The approvals that the call has used are gone."""


class Record(Protocol):
    """Keeps the record of what was decided; ``AuditLog``."""

    @property
    def settled(self) -> bool:
        """The records of all mutations are written."""

    def kick(self) -> None:
        """Write the records of mutations now."""

    def hold(self, reply: Callable[[AuditUnavailable | None], None]) -> None:
        """Call back when the records so far are written, or with the reason why they cannot be."""
