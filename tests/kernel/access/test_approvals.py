"""Approvals: what an answer allows, how often, and for how long."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from aios.kernel.access.approvals import MAX_PER_PROGRAM, Question, digest
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import start
from aios.kernel.trap.asker import Asker
from aios.kernel.trap.doors import Peer
from aios.kernel.trap.pending import Caller, Pending
from aios.kernel.trap.trap import Counts, Trap
from aios.syscalls import codec
from aios.syscalls.errors import (
    ConfirmationRequired,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from aios.syscalls.table import BY_NAME
from aios.syscalls.types.common import Empty
from aios.syscalls.types.tool import ToolCall

from .rig import World, approve, ask


def test_an_approval_holds_once_for_one_agent_operation_and_arguments(world: World) -> None:
    a, b = world.start("a"), world.start("b")
    number = ask(world, a, "rm", {"path": "/x"})
    assert ask(world, a, "rm", {"path": "/x"}) == number, "asked once"
    approve(world, number)
    assert ask(world, b, "rm", {"path": "/x"}) != number
    assert ask(world, a, "rm", {"path": "/y"}) != number
    assert ask(world, a, "rmdir", {"path": "/x"}) != number
    assert world.may(a, "tool.call:rm", None, arguments={"path": "/x"}) == "allow"
    assert world.audit.entries[-1].outcome == f"approved ({number})"
    assert ask(world, a, "rm", {"path": "/x"}) != number, "it is used up"


def test_a_program_that_runs_again_finds_its_approval(world: World) -> None:
    a = world.start("a")
    approve(world, ask(world, a))
    world.table.buried(a, 0, "")
    mother = world.start("mother")
    with pytest.raises(PermissionDenied, match="name a child 'a': it is a name of agents that"):
        world.start("a", mother)
    world.grant(("mother", "allow agent.name:other/a"))
    impostor = world.start("a", mother)
    assert world.may(impostor, "tool.call:rm", None) == "ask", "another process with the same name"
    world.table.buried(impostor, 0, "")
    assert world.may(world.start("a"), "tool.call:rm", None) == "allow"


def test_an_answer_expires(world: World) -> None:
    a = world.start("a")
    world.access.approvals.expire_s = 0.0
    number = ask(world, a)
    with pytest.raises(NotFound, match="expired"):
        approve(world, number)
    world.access.approvals.expire_s = 60
    number = ask(world, a)
    approve(world, number, now=time.monotonic() - 100)
    assert ask(world, a) != number


def test_a_denial_holds_until_the_operator_changes_it(world: World) -> None:
    a = world.start("a")
    number = ask(world, a)
    approve(world, number, False)
    with pytest.raises(PermissionDenied, match="operator has denied") as caught:
        world.access.check(Asker(a.pid), "tool", "call", "rm", None)
    assert not isinstance(caught.value, ConfirmationRequired) and number in caught.value.hint
    approve(world, number)
    assert world.may(a, "tool.call:rm", None) == "allow"


def test_a_call_that_needs_two_approvals_gets_both(world: World) -> None:
    """The first is given back when the second has to be requested."""
    a, questions = world.start("a"), world.access.approvals

    def call() -> None:
        used: list[Question] = []
        try:
            for name in ("from", "to", "from"):
                world.access.check(Asker(a.pid, used=used), "tool", "call", name, None)
        except ConfirmationRequired as error:
            questions.give_back(used)
            approve(world, error.approval)
            raise
        finally:
            questions.forget(used)

    for _ in range(2):
        with pytest.raises(ConfirmationRequired):
            call()
    call()
    with pytest.raises(ConfirmationRequired):
        call()


def test_an_approval_held_by_one_call_is_not_available_to_another(world: World) -> None:
    a, questions = world.start("a"), world.access.approvals
    first: list[Question] = []
    approve(world, ask(world, a))
    world.access.check(Asker(a.pid, used=first), "tool", "call", "rm", None)
    number = ask(world, a)
    assert number != first[0].id and [q.id for q in questions.open(time.monotonic())] == [number]
    questions.give_back(first)
    assert ask(world, a) == number, "two answers for one question are one"


def test_a_call_that_asks_late_asks_each_question_once(world: World) -> None:
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
        start(questions.answer(question.id, True, time.monotonic(), time.time()))
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
    assert len(begun) == 2 and not sent, "started over, and asked nothing"
    later()
    assert [reply.kind for reply in sent] == [codec.RESULT]
    assert questions.open(time.monotonic()) == []


def test_forged_and_used_ids_are_refused(world: World) -> None:
    for number in ("", "deadbeef", "1' or 1", "../x"):
        with pytest.raises(NotFound, match="aios approvals ls"):
            approve(world, number)


def test_questions_are_bounded(world: World) -> None:
    a = world.start("a")
    for number in range(MAX_PER_PROGRAM):
        ask(world, a, f"t{number}")
    with pytest.raises(ResourceExhausted, match=str(MAX_PER_PROGRAM)):
        world.access.check(Asker(a.pid), "tool", "call", "more", None)


def test_equal_arguments_have_equal_hashes() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    different: list[Any] = [
        None,
        {},
        [],
        "",
        0,
        {"a": 1},
        [["a", 1]],
        ["{", ["a", 1]],
        {"a": "1"},
        [[]],
    ]
    assert len({digest(value) for value in different}) == len(different)
