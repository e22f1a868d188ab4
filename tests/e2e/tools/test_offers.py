"""Functions that agents offer as tools."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from aios.syscalls.client import Connection
from aios.syscalls.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ToolFailed,
    ToolUnavailable,
)
from aios.syscalls.types.tool import (
    OfferRequest,
    ToolAnswer,
    ToolRef,
    ToolSpec,
)
from tests.conftest import TIMEOUT_S, Machine
from tests.conftest import call_tool as _call

from .rig import call_apart, end_now

SELLER = """
import aios, os, time
@aios.tool(effect="read")
def greet(name: str) -> str:
    "Greet a person."
    if name == "die":
        os._exit(1)
    if name == "raise":
        raise ValueError("no such name")
    return f"hello {name}"
aios.tools.offer(greet)
print("ready", flush=True)
aios.recv(timeout=600)
"""


def test_an_agents_function_is_called_by_others(tools: Machine, guest: Connection) -> None:
    seller = tools.popen("run", "--name", "seller", tools.agent("seller", SELLER))
    assert seller.stdout and seller.stdout.readline() == "ready\n"
    assert _call(guest, "greet", name="sea") == "hello sea"
    info = guest.call("tool.show", ToolRef("greet"))
    assert info.source.startswith("pid ") and info.spec.description == "Greet a person."
    with pytest.raises(ToolFailed, match="no such name"):
        _call(guest, "greet", name="raise")
    with pytest.raises(InvalidArgument):
        _call(guest, "greet", name=3)
    with pytest.raises(ToolUnavailable, match="has ended"):
        _call(guest, "greet", name="die")
    seller.communicate(timeout=TIMEOUT_S)
    with pytest.raises(NotFound):
        _call(guest, "greet", name="sea")


BAD_SELLER = """
import aios, sys
@aios.tool(exclusive=True, timeout=0.4)
def odd(kind: str, door: str = "") -> object:
    if kind == "hang":
        open(door).read()
    if kind == "exit":
        sys.exit(3)
    if kind == "words":
        raise ValueError("\\ud800" + "x" * (1 << 22))
    if kind == "mute":
        class Mute(Exception):
            def __str__(self): raise RuntimeError
        raise Mute
    return {"big": "x" * (1 << 22), "object": object(), "half": "\\ud800", "fine": kind}[kind]
def first() -> int:
    return 1
aios.tools.offer(first)
aios.tools.offer(odd)  # served by the same thread
print("ready", flush=True)
aios.recv()
"""


def test_a_caller_is_answered_however_an_offered_function_fails(
    tools: Machine, guest: Connection
) -> None:
    seller = tools.popen("run", "--name", "bad", tools.agent("bad", BAD_SELLER))
    assert seller.stdout and seller.stdout.readline() == "ready\n"
    for kind, error, words in (
        ("exit", ToolFailed, "SystemExit"), ("words", ToolFailed, "ValueError"),
        ("mute", ToolFailed, "raised"), ("big", ResourceExhausted, "limit"),
        ("object", ToolFailed, "not JSON"), ("half", ToolFailed, "not JSON"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            _call(guest, "odd", kind=kind)
    assert _call(guest, "odd", kind="fine") == "fine"
    door = tools.folder / "odd-door"
    os.mkfifo(door)
    with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.4 s"):
        _call(guest, "odd", kind="hang", door=str(door))
    with pytest.raises(DeadlineExceeded):  # the first may still run, so no other may begin
        _call(guest, "odd", 0.2, kind="fine")
    os.close(os.open(door, os.O_WRONLY))
    assert _call(guest, "odd", kind="fine") == "fine"
    assert tools.aios("pause", "bad").returncode == 0
    with pytest.raises(DeadlineExceeded):
        _call(guest, "odd", kind="fine")
    assert tools.aios("resume", "bad").returncode == 0
    assert _call(guest, "odd", kind="fine") == "fine"
    with ThreadPoolExecutor() as pool:
        held = pool.submit(call_apart, tools, "odd", kind="hang", door=str(door))
        writer = os.open(door, os.O_WRONLY)
        waiting = [pool.submit(call_apart, tools, "odd", kind="fine") for _ in range(3)]
        end_now(tools, "bad")
        for each in (held, *waiting):  # calls that wait for their turn end, too
            with pytest.raises((ToolUnavailable, NotFound)):
                each.result(TIMEOUT_S)
        os.close(writer)
    seller.communicate(timeout=TIMEOUT_S)


def test_invalid_offers_are_refused(guest: Connection) -> None:
    for name in ("calculate", "my.double", "a.b"):
        with pytest.raises(InvalidArgument, match="cannot be offered"):
            guest.call("tool.offer", OfferRequest([ToolSpec(name)]))
    with pytest.raises(InvalidArgument):
        guest.call("tool.offer", OfferRequest([ToolSpec("x"), ToolSpec("x")]))
    with pytest.raises(NotFound):
        guest.call("tool.answer", ToolAnswer(1, "1"))
