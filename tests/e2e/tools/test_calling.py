"""Calls of file tools: results, limits, and tools that misbehave."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

import psutil
import pytest
import zmq

from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import (
    AiosError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ToolFailed,
    ToolUnavailable,
)
from aios.syscalls.types.common import Empty
from aios.syscalls.types.tool import (
    SecretRequest,
    SourceRef,
    SourceRequest,
    ToolCall,
    ToolRef,
)
from tests.conftest import TIMEOUT_S, Machine
from tests.conftest import call_tool as _call

from .rig import toolhost


def test_a_tool_has_no_operator_rights(tools: Machine, guest: Connection) -> None:
    said = _call(guest, "my.as_operator", runtime=str(tools.runtime))
    assert said.startswith("1 aios: the kernel refused")


def test_tools_are_listed_shown_and_called(tools: Machine, guest: Connection) -> None:
    assert _call(guest, "calculate", expression="6*7") == 42
    assert _call(guest, "search_files", query="seats")[0]["path"] == "docs/a.txt"
    reply = guest.call("tool.call", ToolCall("my.double", '{"n": 4}'))
    assert (reply.result, reply.output, reply.attempts) == ("8", "doubling 4\n", 1)
    info = guest.call("tool.show", ToolRef("my.double"))
    assert info.source == "file my" and info.spec.effect == "read" and info.calls >= 1
    names = [tool.spec.name for tool in guest.call("tool.list", Empty()).tools]
    assert names == sorted(names) and {"calculate", "fetch", "my.hang"} <= set(names)


@pytest.mark.parametrize(("name", "arguments"), [
    ("calculate", "{}"), ("calculate", '{"expression": 1}'), ("calculate", "[]"),
    ("calculate", '{"expression": "1", "x": 1}'), ("calculate", "{"), ("calculate", "\0"),
    ("calculate", '{"expression": "1/0"}'), ("my.double", '{"n": "4"}'), ("", "{}"),
    ("calcu\0late", "{}"), ("x" * 4096, "{}"), ("calculate\n", "{}"), ("a b", "{}"),
    ("calculate", '{"expression": "' + "1" * (1 << 20) + '"}'), ("calculate", "[" * 90_000),
])  # fmt: skip
def test_invalid_calls_are_refused(guest: Connection, name: str, arguments: str) -> None:
    with pytest.raises(InvalidArgument):
        guest.call("tool.call", ToolCall(name, arguments))


def test_an_unknown_name_suggests_a_similar_one(guest: Connection) -> None:
    with pytest.raises(NotFound, match="did you mean 'calculate'"):
        _call(guest, "calculat")


@pytest.mark.parametrize(("how", "words"), [
    ("abort", "SIGABRT"), ("exit", "exit code 7"), ("segv", "SIGSEGV"), ("sysexit", "SystemExit"),
    ("raise", "its own words"), ("recurse", "RecursionError"), ("memory", "memory"),
    ("socket", "SIGKILL"),
])  # fmt: skip
def test_a_failing_tool_affects_no_other_call(guest: Connection, how: str, words: str) -> None:
    with pytest.raises(ToolFailed, match=words):
        _call(guest, "my.crash", how=how)
    assert _call(guest, "my.double", n=1) == 2


@pytest.mark.parametrize("name", ["my.hang", "my.stubborn"])
def test_a_tool_that_hangs_is_killed_with_its_processes(
    tools: Machine, guest: Connection, name: str
) -> None:
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.5 s"):
        _call(guest, name)
    assert not [p for p in toolhost(tools).children(recursive=True) if p.name() == "sleep"]
    assert _call(guest, "my.double", n=1) == 2


def test_processes_that_a_tool_leaves_are_killed(tools: Machine, guest: Connection) -> None:
    worker = psutil.Process(_call(guest, "my.forks"))
    assert worker.children(recursive=True) == []


def test_long_output_is_cut_and_too_much_ends_the_call(guest: Connection) -> None:
    reply = guest.call("tool.call", ToolCall("my.loud", '{"megabytes": 2}'))
    assert reply.result == "2" and len(reply.output) == 16 << 10
    with pytest.raises(ResourceExhausted, match="printed more"):
        _call(guest, "my.loud", megabytes=1 << 20)


def test_results_that_are_not_json_or_too_long_are_errors(guest: Connection) -> None:
    with pytest.raises(ToolFailed, match="not JSON"):
        _call(guest, "my.strange", kind="object")
    with pytest.raises(ResourceExhausted, match="limit is 1,048,576"):
        _call(guest, "my.strange", kind="big")
    assert _call(guest, "my.strange", kind="nan") is None
    assert _call(guest, "my.strange", kind="set") == [1]


def test_only_idempotent_tools_are_retried(tools: Machine, guest: Connection) -> None:
    arguments = json.dumps({"mark": str(tools.folder / "once")})
    reply = guest.call("tool.call", ToolCall("my.dies_once", arguments))
    assert (reply.result, reply.attempts) == ('"done"', 2)
    with pytest.raises(ToolFailed):
        _call(guest, "my.dies_too", mark=str(tools.folder / "twice"))


def test_tools_do_not_see_the_kernels_environment(guest: Connection) -> None:
    seen = _call(guest, "my.environment")
    assert "KERNELS_OWN_KEY" not in seen and "PATH" in seen


def test_a_killed_toolhost_is_replaced(tools: Machine, guest: Connection) -> None:
    """Calls in progress end with a typed error; later calls run."""
    assert _call(guest, "my.double", n=1) == 2
    fifo = tools.folder / "held"
    os.mkfifo(fifo)
    errors: list[AiosError] = []

    def held(context: zmq.Context[Any]) -> None:
        with Connection(context, Credentials(tools.runtime)) as mine:
            try:
                _call(mine, "my.hold", fifo=str(fifo))
            except AiosError as error:
                errors.append(error)

    context: zmq.Context[Any] = zmq.Context()
    thread = threading.Thread(target=held, args=(context,))
    thread.start()
    writer = os.open(fifo, os.O_WRONLY)  # the tool is running
    host = toolhost(tools)
    beneath = host.children(recursive=True)
    host.kill()
    thread.join(TIMEOUT_S)
    os.close(writer)
    context.term()
    assert isinstance(errors[0], ToolUnavailable)
    assert psutil.wait_procs(beneath, TIMEOUT_S)[1] == []
    assert _call(guest, "my.double", n=3) == 6


def test_the_callers_deadline_ends_the_tool(tools: Machine, guest: Connection) -> None:
    fifo = tools.folder / "late"
    os.mkfifo(fifo)
    with pytest.raises(DeadlineExceeded):
        _call(guest, "my.hold", 0.3, fifo=str(fifo))
    assert _call(guest, "my.alone", path=str(tools.folder / "later"), who="x") is None


def test_only_the_operator_adds_tools_and_keys(guest: Connection) -> None:
    for name, body in (
        ("tool.add", SourceRequest("x", "file", "/x.py")),
        ("tool.remove", SourceRef("my")),
        ("tool.secret", SecretRequest("k", "v")),
    ):
        with pytest.raises(PermissionDenied):
            guest.call(name, body)


@pytest.mark.parametrize(("code", "words"), [
    ("1 +", "SyntaxError"), ("raise SystemExit(3)", "SystemExit"), ("x = 1", "no functions"),
    ("import aios\n@aios.tool\ndef f(*a): ...", "cannot be given by name"),
    ("import os; os._exit(4)", "exit code 4"),
])  # fmt: skip
def test_files_without_valid_tools_are_refused(tools: Machine, code: str, words: str) -> None:
    (tools.folder / "bad.py").write_text(code)
    got = tools.aios("tool", "add", "bad", str(tools.folder / "bad.py"))
    assert got.returncode == 1 and words in got.stderr
    assert "bad" not in tools.aios("tool", "ls").stdout
