"""Explanations: what is decided for an operation, and what each principal's rules say.

Follows the rules in force. Records nothing and asks no one.
"""

from __future__ import annotations

from typing import NamedTuple

from aios.syscalls.errors import NotFound
from aios.syscalls.table import BY_NAME

from .principals import Principal, Principals, relation
from .rules import Decision, Operation, Rule, RuleSet, Verdict
from .standing import HOST_LIMIT, Standings, decide, principals_of

OPERATOR_CALL = "law: only the operator, on the operator's socket"


class Step(NamedTuple):
    """The verdict of one principal's rules, and the rule that decided."""

    who: str
    group: str
    verdict: Verdict
    rule: Rule | None


def explain(
    table: Principals, standings: Standings, subject: str, operation: Operation
) -> tuple[Decision, list[Step]]:
    """Return the decision for an agent or an @GROUP, with one step per principal.

    Raises NotFound when no such agent is alive, InvalidArgument when there is no such group.
    """
    if subject.startswith("@"):
        group = standings.policy.find(subject[1:])
        rules = RuleSet([*group.rules, *standings.granted_to(subject)])
        principals = [(subject, group.name, rules)]
    else:
        try:
            process = table.resolve(subject, dead=False)
        except NotFound:
            raise NotFound(
                f"no agent {subject!r} is alive", "run it, or ask for a group: @agent"
            ) from None
        operation = _with_relation(table, process, operation)
        principals = [(f"{p.name} (pid {p.pid})", standings.group_of(p), standings.rules_of(p))
                      for p in principals_of(process)]  # fmt: skip
    principals += [(HOST_LIMIT, "", rules) for rules in standings.limits]
    call = BY_NAME.get(operation.name) if operation.kind == "call" else None
    if call and call.privilege == "operator":
        law = RuleSet([Rule("deny", "call", "make", call.name, OPERATOR_CALL)])
        principals.append(("the kernel", "", law))
    sets = [rules for _, _, rules in principals]
    decision, _ = decide(sets, [who for who, _, _ in principals], operation)
    return decision, [Step(who, group, *rules.judge(operation))
                      for who, group, rules in principals]  # fmt: skip


def _with_relation(table: Principals, process: Principal, operation: Operation) -> Operation:
    """Prefix an agent's bare name with its relation to the process that would act on it."""
    if operation.kind != "agent" or operation.action == "spawn" or "/" in operation.name:
        return operation
    target = table.resolve(operation.name, dead=False)
    return operation._replace(name=f"{relation(table, process.pid, target)}/{target.name}")
