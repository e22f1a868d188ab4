"""The access manager: groups, grants, ancestors, acting for others, and approvals."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aios.kernel.access import groups
from aios.kernel.access.approvals import MOST_OF_ONE, Approvals, Question, digest
from aios.kernel.access.audit.log import Line
from aios.kernel.access.audit.records import Entry
from aios.kernel.access.grants import Grant, GrantFile
from aios.kernel.access.manager import AccessManager, spawn_rules
from aios.kernel.access.rules import Request
from aios.kernel.loop.loop import Loop
from aios.kernel.process.table import OPERATOR, Process, ProcessTable
from aios.kernel.trap.asker import Asker
from aios.kernel.trap.doors import Peer
from aios.kernel.trap.pending import Caller, Pending
from aios.kernel.trap.trap import Counts, Trap
from aios.syscalls import codec
from aios.syscalls.errors import (
    AuditUnavailable,
    ConfirmationRequired,
    IllegalState,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from aios.syscalls.table import BY_NAME, CALLS
from aios.syscalls.types.common import Empty
from aios.syscalls.types.process import SpawnRequest
from aios.syscalls.types.tool import ToolCall


class FakeAudit:
    """Keeps entries; ``broken``: has no room for mutations."""

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
        self.access.use(groups.load(self.policy_file), self.access.grants)

    def grant(self, *pairs: tuple[str, str]) -> None:
        grants = [Grant(n, subject, rule, 0.0) for n, (subject, rule) in enumerate(pairs, 1)]
        self.access.use(self.access.policy, grants)

    def start(self, name: str, parent: Process | None = None, **more: Any) -> Process:
        spec = SpawnRequest(path=f"/bin/{name}.py", name=name, **more)
        pid = parent.pid if parent else OPERATOR
        self.access.check_spawn(Asker(pid), spec)
        process = self.table.create(
            parent=pid, stem=name, command=spec.path, spec=spec, guest=False
        )
        process.program, process.group = spec.path, spec.group or (parent.group if parent else "")
        process.rights, process.added = spawn_rules(spec)
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


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    assert made.access.approvals.check() == []


# ---------------------------------------------------------------------------- who may what


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


def test_a_refusal_says_which_rule_and_what_would_help(world: World) -> None:
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
        world.start("child", mother)  # allow: what cannot be undone is asked for
    mother.added = spawn_rules(SpawnRequest(path="x", allow=["trust agent.spawn:*"]))[1]
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


def test_calls_of_the_operator_are_nobody_elses(world: World) -> None:
    a = world.start("a", group="operator", allow=["trust *:*"])
    for call in CALLS:
        if call.privilege == "operator":
            with pytest.raises(PermissionDenied, match="operator's"):
                world.access.check_call(Asker(a.pid), call)
        world.access.check_call(Asker(OPERATOR), call)
    assert world.audit.entries[-1].agent == "operator"


def test_relations(world: World) -> None:
    a, b = world.start("a"), world.start("b")
    child = world.start("child", a)
    sister = world.start("sister", a)
    relation = world.access.relation
    assert relation(a.pid, a) == "self" and relation(a.pid, child) == "own"
    assert relation(child.pid, sister) == relation(child.pid, a) == "kin"
    assert relation(child.pid, b) == "other" and relation(OPERATOR, b) == "own"
    world.access.check_agent(Asker(child.pid), "send", sister, "irreversible")
    with pytest.raises(PermissionDenied, match="neither"):
        world.access.check_agent(Asker(child.pid), "signal", sister, "irreversible")
    with pytest.raises(ConfirmationRequired):
        world.access.check_agent(Asker(child.pid), "send", b, "irreversible", {"n": 1})


def test_rights_that_are_none_are_refused_before_anything_starts(world: World) -> None:
    for wrong in (
        {"group": "agnt"}, {"rights": ["tol:x"]}, {"allow": ["path:x"]}, {"deny": ["allow tool:x"]},
    ):  # fmt: skip
        with pytest.raises(InvalidArgument):
            world.start("x", **wrong)
    a = world.start("a")
    for wrong in ({"weight": 2.0}, {"quota_cells": 9999}, {"asks": True}, {"stdout": "/x"}):
        with pytest.raises(PermissionDenied, match="operator's"):
            world.start("x", a, **wrong)


def test_a_reload_is_all_or_nothing(world: World) -> None:
    world.policy('[group.lab]\nallow = ["tool:*"]\ntrust = ["call:*"]')
    a = world.start("a", group="lab")
    with pytest.raises(IllegalState, match=r"no group 'lab', in which pid 1 \(a\)"):
        world.policy("")
    assert world.may(a, "tool.call:x") == "allow"
    with pytest.raises(InvalidArgument):
        world.access.use(world.access.policy, [Grant(1, "a", "nonsense", 0.0)])
    assert world.may(a, "tool.call:x") == "allow" and world.access.grants == ()
    world.policy('[group.lab]\ndeny = ["tool:*"]')
    assert world.may(a, "tool.call:x") == "deny"


def test_explain_names_every_principal(world: World) -> None:
    mother = world.start("mother", group="restricted", allow=["trust agent.spawn:*"])
    world.start("child", mother, group="trusted")
    request = Request("tool", "call", "x", "read")
    decision, steps = world.access.explain("child", request)
    assert (decision.verdict, decision.of) == ("deny", 1)
    assert [(s.who, s.group, s.verdict) for s in steps] == [
        ("child (pid 2)", "trusted", "allow"), ("mother (pid 1)", "restricted", "deny"),
    ]  # fmt: skip
    decision, steps = world.access.explain("@agent", request)
    assert decision.verdict == "allow" and str(steps[0].rule) == "allow tool:*"
    decision, _ = world.access.explain("child", Request("agent", "send", "mother", "irreversible"))
    assert decision.verdict == "allow"
    with pytest.raises(NotFound):
        world.access.explain("nobody", request)


# ---------------------------------------------------------------------------- approvals


def _ask(world: World, process: Process, name: str = "rm", arguments: Any = None) -> str:
    with pytest.raises(ConfirmationRequired) as caught:
        world.access.check(Asker(process.pid), "tool", "call", name, None, arguments=arguments)
    assert caught.value.hint.endswith(f"aios approvals approve {caught.value.approval}")
    return caught.value.approval


def _approve(world: World, number: str, approve: bool = True) -> None:
    world.access.approvals.answer(number, approve, time.monotonic(), time.time())


def test_an_approval_holds_once_for_one_agent_operation_and_arguments(world: World) -> None:
    a, b = world.start("a"), world.start("b")
    number = _ask(world, a, "rm", {"path": "/x"})
    assert _ask(world, a, "rm", {"path": "/x"}) == number, "asked once"
    _approve(world, number)
    assert _ask(world, b, "rm", {"path": "/x"}) != number
    assert _ask(world, a, "rm", {"path": "/y"}) != number
    assert _ask(world, a, "rmdir", {"path": "/x"}) != number
    assert world.may(a, "tool.call:rm", None, arguments={"path": "/x"}) == "allow"
    assert world.audit.entries[-1].outcome == f"approved ({number})"
    assert _ask(world, a, "rm", {"path": "/x"}) != number, "it is used up"


def test_a_program_that_runs_again_finds_its_approval(world: World) -> None:
    a = world.start("a")
    _approve(world, _ask(world, a))
    world.table.buried(a, 0, "")
    mother = world.start("mother")
    with pytest.raises(PermissionDenied, match="name a child 'a': it is a name of agents that"):
        world.start("a", mother)
    world.grant(("mother", "allow agent.name:other/a"))
    impostor = world.start("a", mother)
    assert world.may(impostor, "tool.call:rm", None) == "ask", "a name that somebody else took"
    world.table.buried(impostor, 0, "")
    assert world.may(world.start("a"), "tool.call:rm", None) == "allow"


def test_children_have_names_of_their_own_program(world: World) -> None:
    a, b = world.start("a"), world.start("b")
    child = world.start("worker", a)
    world.table.buried(world.start("deep", child), 0, "")
    world.table.buried(child, 0, "")
    for parent in (a, world.start("middle", a)):
        world.table.buried(world.start("worker", parent), 0, "")
    world.start("other", b)
    with pytest.raises(PermissionDenied, match="'worker': it is a name of children of") as caught:
        world.start("worker", world.table.resolve("other"))
    assert "another name; or the operator can allow it" in caught.value.hint
    assert "grant other 'allow agent.name:other/worker'" in caught.value.hint
    assert "'a'" not in str(caught.value), "whose it is does not concern the caller"
    assert world.audit.entries[-1].outcome == "denied"
    world.grant(("other", "allow agent.name:other/worker"))
    with pytest.raises(PermissionDenied, match="'worker'"):
        world.start("worker", world.table.resolve("other"))
    world.grant(("b", "allow agent.name:*/worker"), ("other", "allow agent.name:*/worker"))
    world.table.buried(world.start("worker", world.table.resolve("other")), 0, "")
    world.grant()
    with pytest.raises(PermissionDenied, match="'worker'"):
        world.start("worker", b)
    world.table.buried(world.start("worker", a), 0, "")
    count = len(world.audit.entries)
    world.table.buried(world.start("worker"), 0, "")
    assert world.audit.entries[count].name == "other/worker", "the log tells that it was taken"
    with pytest.raises(PermissionDenied, match="the operator has run"):
        world.start("worker", a)


def test_a_grant_to_a_name_gives_a_child_that_takes_it_no_more_than_its_parent_has(
    world: World,
) -> None:
    world.grant(("mailer", "trust network:*"), ("mailer", "trust context.read:other/a/*"))
    child = world.start("mailer", world.start("b"))
    assert world.may(child, "network.connect:example.org") == "deny"
    assert world.may(child, "context.read:other/a/plan") == "deny"
    world.table.buried(child, 0, "")
    assert world.may(world.start("mailer"), "network.connect:example.org") == "allow"


def test_who_serves_another_program_has_its_own_names(world: World) -> None:
    server, caller = world.start("server"), world.start("caller")
    world.table.buried(world.start("of-server", server), 0, "")
    world.table.buried(world.start("of-caller", caller), 0, "")
    asker = Asker(server.pid, (caller.pid,))
    world.access.check_spawn(asker, SpawnRequest(path="/bin/x.py", name="of-server"))
    with pytest.raises(PermissionDenied, match="'of-caller'"):
        world.access.check_spawn(asker, SpawnRequest(path="/bin/x.py", name="of-caller"))


def test_an_answer_expires(world: World) -> None:
    a = world.start("a")
    world.access.approvals.expire_s = 0.0
    number = _ask(world, a)
    with pytest.raises(NotFound, match="expired"):
        _approve(world, number)
    world.access.approvals.expire_s = 60
    number = _ask(world, a)
    world.access.approvals.answer(number, True, time.monotonic() - 100, time.time())
    assert _ask(world, a) != number


def test_no_is_no_until_the_operator_thinks_again(world: World) -> None:
    a = world.start("a")
    number = _ask(world, a)
    _approve(world, number, False)
    with pytest.raises(PermissionDenied, match="operator has denied") as caught:
        world.access.check(Asker(a.pid), "tool", "call", "rm", None)
    assert not isinstance(caught.value, ConfirmationRequired) and number in caught.value.hint
    _approve(world, number)
    assert world.may(a, "tool.call:rm", None) == "allow"


def test_a_call_that_needs_two_approvals_gets_both(world: World) -> None:
    """The first is given back when the second has to be asked for."""
    a, questions = world.start("a"), world.access.approvals

    def call() -> None:
        used: list[Question] = []
        try:
            for name in ("from", "to", "from"):
                world.access.check(Asker(a.pid, used=used), "tool", "call", name, None)
        except ConfirmationRequired as error:
            questions.give_back(used)
            _approve(world, error.approval)
            raise
        finally:
            questions.forget(used)

    for _ in range(2):
        with pytest.raises(ConfirmationRequired):
            call()
    call()
    with pytest.raises(ConfirmationRequired):
        call()


def test_what_one_call_uses_is_no_other_calls(world: World) -> None:
    a, questions = world.start("a"), world.access.approvals
    first: list[Question] = []
    _approve(world, _ask(world, a))
    world.access.check(Asker(a.pid, used=first), "tool", "call", "rm", None)
    number = _ask(world, a)
    assert number != first[0].id and [q.id for q in questions.open(time.monotonic())] == [number]
    questions.give_back(first)
    assert _ask(world, a) == number, "two answers for one question are one"


def test_a_call_that_has_to_ask_later_on_asks_each_question_once(world: World) -> None:
    a, questions = world.start("a"), world.access.approvals
    a.asker_os_pid = 1
    begun: list[Pending] = []
    sent: list[codec.ReplyFrame] = []

    def handler(call: Pending, _: Any) -> None:
        world.access.check(call.asker, "tool", "call", "rm", None)
        call.defer(lambda error: None)
        begun.append(call)

    def later() -> None:
        try:
            world.access.check(begun[-1].asker, "tool", "call", "cp", None)
            begun[-1].reply(Empty())
        except ConfirmationRequired as error:
            begun[-1].fail(error)

    def approve_next() -> str:
        (question,) = [q for q in questions.open(time.monotonic()) if q.state == "pending"]
        questions.answer(question.id, True, time.monotonic(), time.time())
        questions.tell(question)
        return question.key.name

    audit: Any = SimpleNamespace(kick=lambda: None, settled=True)
    caller = Caller(str(a.pid), a.pid, 0)
    doors: Any = SimpleNamespace(send=lambda peer, frame: sent.append(codec.decode_reply(frame)))
    trap = Trap(
        Loop(), doors, world.access, audit, lambda user: caller, lambda pid, work: (),
        dict.fromkeys(BY_NAME, handler), Counts(),
    )  # fmt: skip
    frame = codec.encode_call(BY_NAME["tool.call"].number, 1, None, ToolCall("rm", "{}"))
    trap.on_frame(Peer("agents", b"a", str(a.pid)), frame, True)
    assert approve_next() == "rm" and len(begun) == 1
    later()
    assert approve_next() == "cp"
    assert len(begun) == 2 and not sent, "begun again, and asked nothing"
    later()
    assert [reply.kind for reply in sent] == [codec.RESULT]
    assert questions.open(time.monotonic()) == []


def test_forged_and_used_ids_are_refused(world: World) -> None:
    for number in ("", "deadbeef", "1' or 1", "../x"):
        with pytest.raises(NotFound, match="aios approvals ls"):
            _approve(world, number)


def test_questions_are_bounded(world: World) -> None:
    a = world.start("a")
    for number in range(MOST_OF_ONE):
        _ask(world, a, f"t{number}")
    with pytest.raises(ResourceExhausted, match=str(MOST_OF_ONE)):
        world.access.check(Asker(a.pid), "tool", "call", "more", None)


def test_equal_arguments_have_equal_hashes() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    different = [None, {}, [], "", 0, {"a": 1}, [["a", 1]], ["{", ["a", 1]], {"a": "1"}, [[]]]
    assert len({digest(value) for value in different}) == len(different)


# ---------------------------------------------------------------------------- the log, the cost


def test_without_a_log_nothing_changes_but_reads_and_ends(world: World) -> None:
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
    for name in ("tool.next", "tool.answer"):  # else whoever has called waits for ever
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
    _approve(world, _ask(world, a, "mail", {"password": secret}))
    world.may(a, "tool.call:mail", None, arguments={"password": secret})
    assert secret not in repr(world.audit.entries)


def test_a_check_is_cheap(world: World) -> None:
    """Far under 20 us; the figures are from ``bench.managers_access``."""
    a = world.start("a")
    times = []
    for number in range(2000):
        begun = time.perf_counter()
        world.access.check(Asker(a.pid), "path", "read", f"/notes/{number}.txt")
        times.append(time.perf_counter() - begun)
    assert statistics.median(times) < 100e-6


# ---------------------------------------------------------------------------- grants on disk


def test_grants_last(tmp_path: Path) -> None:
    path = tmp_path / "data" / "grants.json"
    first, _ = GrantFile(path).add("mail*", "allow network:*")
    same, all_ = GrantFile(path).add("mail*", "allow network:*")
    assert same.id == first.id == 1 and len(all_) == 1
    GrantFile(path).add("@agent", "deny tool:rm")
    assert [g.id for g in GrantFile(path).load()] == [1, 2]
    removed, left = GrantFile(path).remove(1)
    assert removed.subject == "mail*" and [g.id for g in left] == [2]
    with pytest.raises(NotFound, match="aios perm ls"):
        GrantFile(path).remove(1)
    assert GrantFile(path).add("x", "allow tool:y")[0].id == 3, "a number is not used twice"
    assert path.stat().st_mode & 0o777 == 0o600


def test_damaged_grants_are_named(tmp_path: Path) -> None:
    path = tmp_path / "grants.json"
    for text in ("", "{", '{"version":2}', '{"grants":[{"id":"x"}]}', "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(InvalidArgument, match=r"grants.*damaged"):
            GrantFile(path).load()
