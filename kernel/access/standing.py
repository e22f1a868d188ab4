"""Standings: the rules in force for each process, and the decisions cached from them.

A standing holds the rules of one process and of all its ancestors. It is built on first use from
the policy, the grants and the host limits, and dropped when any of them changes. It caches
decisions together with their log lines, so a repeated check is cheap.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aios.kernel.access.audit.log import Line, line
from aios.kernel.access.audit.records import Entry
from aios.kernel.trap.gatekeeper import CONTINUING
from aios.syscalls.errors import IllegalState

from . import rules
from .grant_file import Grant
from .groups import GroupPolicy
from .principals import OPERATOR, Principal, Principals
from .rules import Decision, Operation, Rule, RuleSet

MAX_DECISIONS = 250
"""Limit on cached decisions per process."""
MAX_RULE_SETS = 1000
"""Limit on cached compiled rule sets."""
HOST_LIMIT = "the setting web_allow"
_ENDING = frozenset({("call", "proc.signal"), ("call", "kernel.shutdown"), ("call", "cancel"),
                     *(("call", name) for name in CONTINUING)})  # fmt: skip
"""Calls that end something. They work even while the audit log cannot be written, as do the
operator's signals."""


class Decided(NamedTuple):
    """A decision; the deciding rule as the log names it; the log line if the operation is allowed;
    and the name of the principal whose rules decided."""

    decision: Decision
    rule: str
    line: Line
    who: str


class Standing:
    """The rules that bind one process, and the decisions made from them so far."""

    def __init__(
        self, pid: int, name: str, principals: Sequence[RuleSet], names: Sequence[str]
    ) -> None:
        self.pid, self.name, self.principals, self.names = pid, name, principals, names
        self.allowed_calls: dict[int, Line] = {}
        """Allowed system calls by number; the fast path of the null system call."""
        self._decided: dict[Operation, Decided] = {}

    def decide(self, operation: Operation) -> Decided:
        """Return the decision of the rules, from the cache if possible."""
        decided = self._decided.get(operation)
        if decided is None:
            if len(self._decided) >= MAX_DECISIONS:
                self._decided.clear()
            decision, rule = decide(self.principals, self.names, operation)
            line = self.line(operation, "allowed", rule)
            decided = Decided(decision, rule, line, self.names[decision.of])
            self._decided[operation] = decided
        return decided

    def decide_for(
        self, others: Sequence[tuple[Standing, Operation]], operation: Operation
    ) -> Decided:
        """Return the strictest decision of this process and of those it acts for, each paired with
        the operation as that process sees it."""
        decided = self.decide(operation)
        for other, theirs in others:
            its = other.decide(theirs)
            if rules.stricter(its.decision, decided.decision):
                decided = its._replace(rule=f"{its.rule} [for {other.name}]")
        behalf = ", ".join(f"{other.name} ({other.pid})" for other, _ in others)
        return decided._replace(line=self.line(operation, "allowed", decided.rule, behalf))

    def line(self, operation: Operation, outcome: str, rule: str, behalf: str = "") -> Line:
        """Return a log line; ``behalf`` names those for whom the process acts."""
        kind, action, name, effect = operation
        ends = (kind, name) in _ENDING or (self.pid == OPERATOR and action == "signal")
        done = outcome == "allowed" or outcome.startswith("approved")
        entry = Entry(self.pid, self.name, kind, action, name, effect, outcome, rule, behalf)
        return line(entry, mutates=done and effect != "read" and not ends)


def decide(
    principals: Sequence[RuleSet], names: Sequence[str], operation: Operation
) -> tuple[Decision, str]:
    """Return the decision, and the deciding rule as the log names it."""
    if operation.kind == "path" and ".." in operation.name.split("/"):
        return Decision("deny", None), "law: a path has no .."
    decision = rules.decide(principals, operation)
    text = f"{decision.rule} ({decision.rule.source})" if decision.rule else "no rule allows it"
    if decision.of:
        text += f" [of {names[decision.of]}]"
    return decision, text


class Standings(dict[int, Standing]):
    """The standings of living processes by pid, each built when it is first looked up.

    A lookup raises NotFound when the process has ended.
    """

    def __init__(
        self, table: Principals, policy: GroupPolicy, grants: Sequence[Grant], hosts: Sequence[Rule]
    ) -> None:
        super().__init__()
        self._table = table
        self._sets: dict[tuple[Rule, ...], RuleSet] = {}
        self.limits = _limits(hosts)
        """Rule sets that limit every agent, even against its groups and grants."""
        self.use(policy, grants)

    def use(self, policy: GroupPolicy, grants: Sequence[Grant]) -> None:
        """Put a policy and grants in force, or change nothing and raise: IllegalState when a
        living agent's group is missing, InvalidArgument when a grant is not a valid rule."""
        for process in self._table.living():
            if process.group and process.group not in policy.groups:
                raise IllegalState(
                    f"the policy has no group {process.group!r}, in which pid {process.pid} "
                    f"({process.name}) runs",
                    f"keep the group in the policy, or end the agent: aios kill {process.pid}",
                )
        granted = [(grant.subject, rules.parse(grant.rule, "allow", f"grant {grant.id}"))
                   for grant in grants]  # fmt: skip
        self.policy, self.grants, self._granted = policy, tuple(grants), granted
        self.clear()
        self._sets.clear()

    def group_of(self, process: Principal) -> str:
        """Return the name of a process's privilege group."""
        return process.group or (self.policy.guest if process.guest else self.policy.default)

    def rules_of(self, process: Principal) -> RuleSet:
        """Return one process's own rules, without its ancestors'. Equal rules share one set."""
        group = self.group_of(process)
        base = process.rights
        if base is None:
            known = self.policy.groups.get(group)
            base = (*(known.rules if known else ()), *self.granted_to(f"@{group}"))
        rules = (*base, *process.added, *self.granted_to(process.name))
        found = self._sets.get(rules)
        if found is None:
            if len(self._sets) >= MAX_RULE_SETS:
                self._sets.clear()
            found = self._sets[rules] = RuleSet(rules)
        return found

    def granted_to(self, subject: str) -> Iterable[Rule]:
        """Yield the rules granted to an agent's name or to @GROUP."""
        return (rule for to, rule in self._granted
                if to == subject or ("*" in to and fnmatch.fnmatchcase(subject, to)))  # fmt: skip

    def __missing__(self, pid: int) -> Standing:
        if pid == OPERATOR:
            sets, names = [RuleSet([Rule("trust", "*", "*", "*", "the operator")])], ["operator"]
        else:
            chain = list(principals_of(self._table.caller(pid)))
            sets, names = [self.rules_of(p) for p in chain], [p.name for p in chain]
        self[pid] = Standing(pid, names[0], (*sets, *self.limits), (*names, HOST_LIMIT))
        return self[pid]


def principals_of(process: Principal) -> Iterable[Principal]:
    """Return the process, its ancestors, and those on whose behalf these act, each once."""
    found: dict[int, Principal] = {}
    todo = [process]
    while todo:
        at = todo.pop()
        if at.pid not in found:
            found[at.pid] = at
            todo += [*at.behalf, *([at.above] if at.above else [])]
    return found.values()


def _limits(hosts: Sequence[Rule]) -> tuple[RuleSet, ...]:
    """Return rules that limit the hosts only, or none if any host is allowed."""
    if any(rule.name == "*" for rule in hosts):
        return ()
    others = (
        Rule("trust", kind, "*", "*", HOST_LIMIT) for kind in rules.KINDS if kind != "network"
    )
    return (RuleSet([*hosts, *others]),)
