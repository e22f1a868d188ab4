"""Standings: what counts for one process, and what has been decided for it so far.

A standing is made from the rules in force and thrown away when they change. It remembers decisions
with their lines for the log, so that asking again costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import rights
from .audit import Line, line
from .process import OPERATOR
from .records import Entry
from .rights import Decision, Request, RuleSet

MOST_CACHED = 250
"""Decisions remembered for one process."""
_ENDING = frozenset({("call", "proc.signal"), ("call", "kernel.shutdown"), ("call", "cancel")})
"""Calls that end things; they and the operator's signals go on while the log cannot be written."""


class Decided(NamedTuple):
    """A decision, how the log names what decided, and its line in the log when it allows."""

    decision: Decision
    rule: str
    line: Line


class Standing:
    """What counts for one process: its rules and those of all who started it, decisions so far."""

    def __init__(
        self, pid: int, name: str, principals: Sequence[RuleSet], names: Sequence[str]
    ) -> None:
        self.pid, self.name, self.principals, self.names = pid, name, principals, names
        self.allowed_calls: dict[int, Line] = {}
        """Calls that are allowed, by number: what the null system call costs depends on this."""
        self._decided: dict[Request, Decided] = {}

    def decide(self, request: Request) -> Decided:
        """What the rules say; remembered."""
        decided = self._decided.get(request)
        if decided is None:
            if len(self._decided) >= MOST_CACHED:
                self._decided.clear()
            decided = self._decided[request] = self.decide_for(None, request)
        return decided

    def decide_for(self, other: Standing | None, request: Request) -> Decided:
        """What the rules say when it acts for another, whose rules count, too."""
        principals, names = self.principals, self.names
        if other:
            principals, names = [*principals, *other.principals], [*names, *other.names]
        decision, rule = decide(principals, names, request)
        return Decided(decision, rule, self.line(request, "allowed", rule))

    def line(self, request: Request, outcome: str, rule: str) -> Line:
        """A line of the log."""
        kind, action, name, effect = request
        ends = (kind, name) in _ENDING or (self.pid == OPERATOR and action == "signal")
        done = outcome == "allowed" or outcome.startswith("approved")
        entry = Entry(self.pid, self.name, kind, action, name, effect, outcome, rule)
        return line(entry, mutates=done and effect != "read" and not ends)


def decide(
    principals: Sequence[RuleSet], names: Sequence[str], request: Request
) -> tuple[Decision, str]:
    """The decision, and how the log names what decided."""
    if request.kind == "path" and ".." in request.name.split("/"):
        return Decision("deny", None), "law: a path has no .."
    decision = rights.decide(principals, request)
    text = f"{decision.rule} ({decision.rule.source})" if decision.rule else "no rule allows it"
    if decision.of:
        text += f" [of {names[decision.of]}]"
    return decision, text
