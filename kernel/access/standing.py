"""Standings: what counts for one process, and what has been decided for it so far.

A standing is made from the rules in force and thrown away when they change. It remembers decisions
with their lines for the log, so that asking again costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aios.kernel.access.audit.log import Line, line
from aios.kernel.access.audit.records import Entry
from aios.kernel.trap.gatekeeper import CONTINUING

from . import rules
from .principals import OPERATOR
from .rules import Decision, Request, RuleSet

MOST_CACHED = 250
"""Decisions remembered for one process."""
_ENDING = frozenset({("call", "proc.signal"), ("call", "kernel.shutdown"), ("call", "cancel"),
                     *(("call", name) for name in CONTINUING)})  # fmt: skip
"""Calls that end things; they and the operator's signals go on while the log cannot be written."""


class Decided(NamedTuple):
    """A decision, how the log names what decided, its line in the log when it allows, and whose
    rules decided."""

    decision: Decision
    rule: str
    line: Line
    who: str


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
            decision, rule = decide(self.principals, self.names, request)
            line = self.line(request, "allowed", rule)
            decided = Decided(decision, rule, line, self.names[decision.of])
            self._decided[request] = decided
        return decided

    def decide_for(self, others: Sequence[tuple[Standing, Request]], request: Request) -> Decided:
        """The strictest when it acts for others: of what its rules say of the request, and theirs
        of the same as it is to them."""
        decided = self.decide(request)
        for other, theirs in others:
            its = other.decide(theirs)
            if rules.stricter(its.decision, decided.decision):
                decided = its._replace(rule=f"{its.rule} [for {other.name}]")
        behalf = ", ".join(f"{other.name} ({other.pid})" for other, _ in others)
        return decided._replace(line=self.line(request, "allowed", decided.rule, behalf))

    def line(self, request: Request, outcome: str, rule: str, behalf: str = "") -> Line:
        """A line of the log; ``behalf`` names those for whom it acts."""
        kind, action, name, effect = request
        ends = (kind, name) in _ENDING or (self.pid == OPERATOR and action == "signal")
        done = outcome == "allowed" or outcome.startswith("approved")
        entry = Entry(self.pid, self.name, kind, action, name, effect, outcome, rule, behalf)
        return line(entry, mutates=done and effect != "read" and not ends)


def decide(
    principals: Sequence[RuleSet], names: Sequence[str], request: Request
) -> tuple[Decision, str]:
    """The decision, and how the log names what decided."""
    if request.kind == "path" and ".." in request.name.split("/"):
        return Decision("deny", None), "law: a path has no .."
    decision = rules.decide(principals, request)
    text = f"{decision.rule} ({decision.rule.source})" if decision.rule else "no rule allows it"
    if decision.of:
        text += f" [of {names[decision.of]}]"
    return decision, text
