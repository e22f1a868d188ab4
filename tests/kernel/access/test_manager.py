"""The access manager: groups, grants, ancestors, acting for others, and the audit log."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from aios.kernel.access.grant_file import Grant
from aios.kernel.access.principals import OPERATOR, relation
from aios.kernel.access.rules import Operation, of_spawn
from aios.kernel.trap.asker import Asker
from aios.syscalls.errors import (
    AuditUnavailable,
    ConfirmationRequired,
    IllegalState,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from aios.syscalls.table import BY_NAME, CALLS
from aios.syscalls.types.process import SpawnRequest

from .rig import World, approve, ask


def test_the_default_group(world: World) -> None:
    a = world.start("a")
    assert world.may(a, "path.write:/notes/x", "reversible") == "allow"
    assert world.may(a, "path.write:/../etc", "reversible") == "deny"
    assert world.may(a, "tool.call:calc") == "allow"
    assert world.may(a, "tool.call:calc", None) == "ask", "an undeclared effect is irreversible"
    assert world.may(a, "network.connect:example.org") == "deny"
    assert world.may(a, "nonsense.do:x") == "deny"
    entry = world.audit.entries[-1]
    assert (entry.pid, entry.agent, entry.outcome) == (a.pid, "a", "denied")
    assert entry.rule == "no rule allows it"


def test_a_refusal_names_the_rule_and_the_command_that_helps(world: World) -> None:
    a = world.start("a", deny=["tool.call:rm"])
    with pytest.raises(PermissionDenied, match=r"deny tool.call:rm \(spawn deny\)") as caught:
        world.access.check(Asker(a.pid), "tool", "call", "rm")
    assert "aios perm grant a 'allow tool.call:rm'" in caught.value.hint


def test_grants_reach_names_patterns_and_groups(world: World) -> None:
    a, b = world.start("mail-1"), world.start("other")
    world.grant(("mail*", "allow network:*.example.org"), ("@agent", "deny tool.call:rm"))
    assert world.may(a, "network.connect:www.example.org") == "allow"
    assert world.may(b, "network.connect:www.example.org") == "deny"
    assert world.may(a, "tool.call:rm") == world.may(b, "tool.call:rm") == "deny"
    world.grant()
    assert world.may(a, "network.connect:www.example.org") == "deny", "revoked, at once"


def test_a_child_never_has_more_than_its_parent(world: World) -> None:
    mother = world.start("mother", group="restricted", allow=["agent.spawn:*", "call:proc.spawn"])
    with pytest.raises(ConfirmationRequired):
        world.start("child", mother)  # allow asks for what cannot be undone
    mother.added = of_spawn(SpawnRequest(path="x", allow=["trust agent.spawn:*"]))[1]
    world.access.forget(mother)
    child = world.start("child", mother, group="trusted", allow=["trust *:*"])
    world.grant(("child", "trust *:*"))
    assert world.may(child, "path.read:/x") == "allow"
    assert world.may(child, "path.write:/x", "reversible") == "deny"
    assert world.audit.entries[-1].rule == "no rule allows it [of mother]"
    world.grant(("mother", "allow path.write:/x"))
    assert world.may(child, "path.write:/x", "reversible") == "allow"


def test_a_child_can_be_given_less(world: World) -> None:
    mother = world.start("mother")
    child = world.start("child", mother, rights=["model:*", "path.read:/notes/**"])
    grandchild = world.start("grandchild", mother)
    world.table.buried(child, 0, "")
    child = world.start("child", mother, rights=["model:*", "path.read:/notes/**"])
    assert world.may(child, "path.read:/notes/a") == "allow"
    assert world.may(child, "path.read:/other") == "deny"
    assert world.may(child, "path.write:/notes/a", "reversible") == "deny"
    assert world.may(child, "agent.spawn:/x.py", "irreversible") == "deny"
    assert world.may(grandchild, "path.read:/other") == "allow"
    nothing = world.start("nothing", mother, rights=[])
    assert world.may(nothing, "model.use:x") == "deny"
    world.access.check_call(Asker(nothing.pid), BY_NAME["getpid"])


def test_acting_for_another_needs_both_rights(world: World) -> None:
    gateway, user = world.start("gateway", group="trusted"), world.start("user", deny=["tool:rm"])
    assert world.may(gateway, "tool.call:rm", "irreversible") == "allow"
    assert world.may(gateway, "tool.call:rm", behalf=(user.pid,)) == "deny"
    assert world.may(gateway, "tool.call:ls", behalf=(user.pid,)) == "allow"
    assert world.may(user, "network.connect:x.org", behalf=(gateway.pid,)) == "deny"


def test_only_the_operator_makes_operator_calls(world: World) -> None:
    a = world.start("a", group="operator", allow=["trust *:*"])
    for call in CALLS:
        if call.privilege == "operator":
            with pytest.raises(PermissionDenied, match="is the operator's"):
                world.access.check_call(Asker(a.pid), call)
        world.access.check_call(Asker(OPERATOR), call)
    assert world.audit.entries[-1].agent == "operator"


def test_relations(world: World) -> None:
    a, b = world.start("a"), world.start("b")
    child = world.start("child", a)
    sister = world.start("sister", a)
    table = world.table
    assert relation(table, a.pid, a) == "self" and relation(table, a.pid, child) == "own"
    assert relation(table, child.pid, sister) == relation(table, child.pid, a) == "kin"
    assert relation(table, child.pid, b) == "other" and relation(table, OPERATOR, b) == "own"
    world.access.check_agent(Asker(child.pid), "send", sister, "irreversible")
    with pytest.raises(PermissionDenied, match="neither"):
        world.access.check_agent(Asker(child.pid), "signal", sister, "irreversible")
    with pytest.raises(ConfirmationRequired):
        world.access.check_agent(Asker(child.pid), "send", b, "irreversible", {"n": 1})


def test_invalid_rights_are_rejected_before_anything_starts(world: World) -> None:
    malformed: list[dict[str, Any]] = [
        {"group": "agnt"}, {"rights": ["tol:x"]}, {"allow": ["path:x"]}, {"deny": ["allow tool:x"]},
    ]  # fmt: skip
    for wrong in malformed:
        with pytest.raises(InvalidArgument):
            world.start("x", **wrong)
    a = world.start("a")
    of_the_operator: list[dict[str, Any]] = [
        {"weight": 2.0}, {"quota_cells": 9999}, {"asks": True}, {"stdout": "/x"},
    ]  # fmt: skip
    for wrong in of_the_operator:
        with pytest.raises(PermissionDenied, match="only the operator"):
            world.start("x", a, **wrong)


def test_a_reload_is_all_or_nothing(world: World) -> None:
    world.policy('[group.lab]\nallow = ["tool:*"]\ntrust = ["call:*"]')
    a = world.start("a", group="lab")
    with pytest.raises(IllegalState, match=r"no group 'lab', in which pid 1 \(a\)"):
        world.policy("")
    assert world.may(a, "tool.call:x") == "allow"
    with pytest.raises(InvalidArgument):
        world.access.use(world.access.standings.policy, [Grant(1, "a", "nonsense", 0.0)])
    assert world.may(a, "tool.call:x") == "allow" and world.access.standings.grants == ()
    world.policy('[group.lab]\ndeny = ["tool:*"]')
    assert world.may(a, "tool.call:x") == "deny"


def test_explain_names_every_principal(world: World) -> None:
    mother = world.start("mother", group="restricted", allow=["trust agent.spawn:*"])
    world.start("child", mother, group="trusted")
    operation = Operation("tool", "call", "x", "read")
    decision, steps = world.access.explain("child", operation)
    assert (decision.verdict, decision.of) == ("deny", 1)
    assert [(s.who, s.group, s.verdict) for s in steps] == [
        ("child (pid 2)", "trusted", "allow"), ("mother (pid 1)", "restricted", "deny"),
    ]  # fmt: skip
    decision, steps = world.access.explain("@agent", operation)
    assert decision.verdict == "allow" and str(steps[0].rule) == "allow tool:*"
    decision, _ = world.access.explain(
        "child", Operation("agent", "send", "mother", "irreversible")
    )
    assert decision.verdict == "allow"
    with pytest.raises(NotFound):
        world.access.explain("missing", operation)


def test_without_a_log_only_reads_and_endings_are_allowed(world: World) -> None:
    a = world.start("a")
    world.audit.broken = True
    assert world.may(a, "path.read:/x") == "allow"
    with pytest.raises(AuditUnavailable):
        world.access.check(Asker(a.pid), "path", "write", "/x", "reversible")
    with pytest.raises(AuditUnavailable):
        world.access.check_call(Asker(a.pid), BY_NAME["ipc.send"])
    with pytest.raises(AuditUnavailable):
        world.access.note("grant", "x", "y")
    world.access.check_call(Asker(OPERATOR), BY_NAME["proc.signal"])
    world.access.check_agent(Asker(OPERATOR), "signal", a, "irreversible")
    world.access.check_call(Asker(OPERATOR), BY_NAME["kernel.shutdown"])
    for name in ("tool.next", "tool.answer"):  # otherwise the caller of the tool waits forever
        world.access.check_call(Asker(a.pid), BY_NAME[name])
    with pytest.raises(PermissionDenied):
        world.access.check(Asker(a.pid), "network", "connect", "x.org", "reversible")


def test_every_decision_is_recorded(world: World) -> None:
    a = world.start("a")
    before = len(world.audit.entries)
    for _ in range(100):
        world.access.check_call(Asker(a.pid), BY_NAME["getpid"])
        world.may(a, "network.connect:x.org")
    assert len(world.audit.entries) == before + 200


def test_arguments_are_not_in_the_log(world: World) -> None:
    a = world.start("a")
    secret = "hunter2-very-secret"
    approve(world, ask(world, a, "mail", {"password": secret}))
    world.may(a, "tool.call:mail", None, arguments={"password": secret})
    assert secret not in repr(world.audit.entries)


def test_the_work_of_a_check_does_not_grow_with_the_number_of_agents(world: World) -> None:
    """Work is counted in function calls; ``aios bench`` measures the time."""
    agent = world.start("a")

    def work() -> int:
        count = 0

        def called(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event == "call"

        world.access.check(Asker(agent.pid), "path", "read", "/notes/x.txt")
        sys.setprofile(called)
        try:
            world.access.check(Asker(agent.pid), "path", "read", "/notes/x.txt")
        finally:
            sys.setprofile(None)
        return count

    alone = work()
    assert alone < 60
    for number in range(50):
        world.start(f"other-{number}")
    world.grant(*[(f"other-{number}", "allow network:*") for number in range(50)])
    assert work() == alone
