"""Tools from outside: called, limited, offered by agents, and misbehaving in every way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import zmq

from aios.syscalls import paths
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
from aios.syscalls.types.kernel import CheckReply
from aios.syscalls.types.process import PsRequest
from aios.syscalls.types.tool import (
    OfferRequest,
    SecretRequest,
    SourceRef,
    SourceRequest,
    ToolAnswer,
    ToolCall,
    ToolRef,
    ToolSpec,
)
from tests.conftest import TIMEOUT_S, Machine, operator, shared_kernel
from tests.conftest import call_tool as _call

TOOLS = '''
import os, signal, subprocess, sys, time, threading
import aios

@aios.tool(effect="read", idempotent=True)
def double(n: int) -> int:
    """Twice a number."""
    print("doubling", n)
    return 2 * n

@aios.tool(timeout=0.5)
def hang() -> None:
    subprocess.Popen(["sleep", "1000"])
    time.sleep(1000)

@aios.tool(timeout=0.5)
def stubborn() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass

@aios.tool
def crash(how: str) -> None:
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(7)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "sysexit":
        sys.exit(3)
    if how == "raise":
        raise RuntimeError("its own words")
    if how == "recurse":
        crash.function("recurse")
    if how == "memory":
        bytearray(1 << 40)
    if how == "socket":
        os.write(3, b"\\xff" * 100)
        time.sleep(1000)

@aios.tool
def as_operator(runtime: str) -> str:
    got = subprocess.run([sys.executable, "-P", "-m", "aios.cli", "approvals", "ls"],
                         env={**os.environ, "AIOS_RUNTIME_DIR": runtime}, stderr=subprocess.PIPE)
    return f"{got.returncode} {got.stderr.decode()}"

@aios.tool
def loud(megabytes: int) -> int:
    for _ in range(megabytes):
        print("x" * (1 << 20))
    return megabytes

@aios.tool
def strange(kind: str) -> object:
    return {"object": object(), "set": {1}, "nan": float("nan"), "big": "x" * (1 << 21),
            "deep": eval("[" * 50 + "]" * 50)}[kind]

@aios.tool
def forks() -> int:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    return os.getpid()

@aios.tool(idempotent=True)
def dies_once(mark: str) -> str:
    if not os.path.exists(mark):
        open(mark, "w").close()
        os.abort()
    return "done"

@aios.tool
def dies_too(mark: str) -> str:
    return dies_once.function(mark)

@aios.tool(exclusive=True, timeout=60)
def alone(path: str, who: str, door: str = "") -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{who} in\\n".encode())
    if door:
        open(door).read()
    os.write(fd, f"{who} out\\n".encode())
    os.close(fd)

@aios.tool(exclusive=True, timeout=60)
def hold(fifo: str) -> str:
    return open(fifo).read()

@aios.tool
def environment() -> dict[str, str]:
    return dict(os.environ)
'''


@pytest.fixture(scope="module")
def _kernel() -> Iterator[Machine]:
    with shared_kernel() as machine:
        machine.env["KERNELS_OWN_KEY"] = "hidden"
        (machine.folder / "docs").mkdir()
        (machine.folder / "docs" / "a.txt").write_text("about seats")
        (machine.folder / "tools.py").write_text(TOOLS)
        machine.trust("tool.call:*", "network.connect:127.0.0.1")
        machine.start("--model", "fake:end=0", "--tool-folders", f"docs={machine.folder}/docs")
        with operator(machine) as connection:
            path = str(machine.folder / "tools.py")
            connection.call("tool.add", SourceRequest("my", "file", path))
        yield machine


@pytest.fixture
def tools(_kernel: Machine) -> Iterator[Machine]:
    """A kernel with the tools above, which each test leaves clean."""
    yield _kernel
    with operator(_kernel) as connection:
        check: CheckReply = connection.call("kernel.check", Empty())
        found = connection.call("tool.list", Empty())
    assert check.problems == []
    assert [
        (t.spec.name, t.running, t.waiting) for t in found.tools if t.running or t.waiting
    ] == []


@pytest.fixture
def guest(tools: Machine, context: zmq.Context[Any]) -> Iterator[Connection]:
    with Connection(context, Credentials(tools.runtime)) as connection:
        yield connection


def _of_its_own(machine: Machine, tool: str, **arguments: Any) -> Any:
    """A call on a connection of its own, for threads."""
    with Connection(zmq.Context.instance(), Credentials(machine.runtime)) as mine:
        return _call(mine, tool, **arguments)


def _end_now(machine: Machine, name: str) -> None:
    """Kill an agent's host process."""
    with operator(machine) as connection:
        rows = connection.call("proc.ps", PsRequest()).processes
    os.kill(next(row.os_pid for row in rows if row.name == name), signal.SIGKILL)


def test_a_tool_is_not_the_operator(tools: Machine, guest: Connection) -> None:
    said = _call(guest, "my.as_operator", runtime=str(tools.runtime))
    assert said.startswith("1 aios: the kernel refused")


def _toolhost(machine: Machine) -> psutil.Process:
    kernel = psutil.Process(paths.kernel_os_pid(machine.runtime))
    return next(p for p in kernel.children() if "aios.toolhost" in p.cmdline())


# ---------------------------------------------------------------------------- calling


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
def test_calls_that_do_not_fit_are_refused(guest: Connection, name: str, arguments: str) -> None:
    with pytest.raises(InvalidArgument):
        guest.call("tool.call", ToolCall(name, arguments))


def test_a_name_that_is_near_is_told(guest: Connection) -> None:
    with pytest.raises(NotFound, match="did you mean 'calculate'"):
        _call(guest, "calculat")


# ---------------------------------------------------------------------------- misbehaviour


@pytest.mark.parametrize(("how", "words"), [
    ("abort", "SIGABRT"), ("exit", "exit code 7"), ("segv", "SIGSEGV"), ("sysexit", "SystemExit"),
    ("raise", "its own words"), ("recurse", "RecursionError"), ("memory", "memory"),
    ("socket", "SIGKILL"),
])  # fmt: skip
def test_a_tool_that_fails_fails_alone(guest: Connection, how: str, words: str) -> None:
    with pytest.raises(ToolFailed, match=words):
        _call(guest, "my.crash", how=how)
    assert _call(guest, "my.double", n=1) == 2


@pytest.mark.parametrize("name", ["my.hang", "my.stubborn"])
def test_a_tool_that_hangs_is_ended_with_all_it_started(
    tools: Machine, guest: Connection, name: str
) -> None:
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.5 s"):
        _call(guest, name)
    assert not [p for p in _toolhost(tools).children(recursive=True) if p.name() == "sleep"]
    assert _call(guest, "my.double", n=1) == 2


def test_what_a_tool_leaves_running_is_ended(tools: Machine, guest: Connection) -> None:
    worker = psutil.Process(_call(guest, "my.forks"))
    assert worker.children(recursive=True) == []


def test_much_output_is_cut_and_too_much_ends_the_call(guest: Connection) -> None:
    reply = guest.call("tool.call", ToolCall("my.loud", '{"megabytes": 2}'))
    assert reply.result == "2" and len(reply.output) == 16 << 10
    with pytest.raises(ResourceExhausted, match="printed more"):
        _call(guest, "my.loud", megabytes=1 << 20)


def test_results_that_are_no_json_or_too_long(guest: Connection) -> None:
    with pytest.raises(ToolFailed, match="no JSON"):
        _call(guest, "my.strange", kind="object")
    with pytest.raises(ResourceExhausted, match="limit is 1,048,576"):
        _call(guest, "my.strange", kind="big")
    assert _call(guest, "my.strange", kind="nan") is None
    assert _call(guest, "my.strange", kind="set") == [1]


def test_only_idempotent_tools_are_tried_again(tools: Machine, guest: Connection) -> None:
    arguments = json.dumps({"mark": str(tools.folder / "once")})
    reply = guest.call("tool.call", ToolCall("my.dies_once", arguments))
    assert (reply.result, reply.attempts) == ('"done"', 2)
    with pytest.raises(ToolFailed):
        _call(guest, "my.dies_too", mark=str(tools.folder / "twice"))


def test_tools_see_nothing_of_the_kernels_environment(guest: Connection) -> None:
    seen = _call(guest, "my.environment")
    assert "KERNELS_OWN_KEY" not in seen and "PATH" in seen


def test_a_killed_toolhost_is_replaced(tools: Machine, guest: Connection) -> None:
    """Calls under way end with a typed error; the next ones run."""
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
    writer = os.open(fifo, os.O_WRONLY)  # it is inside
    host = _toolhost(tools)
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


# ---------------------------------------------------------------------------- sharing

USER = """
import aios, sys, threading
tool, path, who, door, wait_for = sys.argv[1:]
open(path + "-start-" + who).readline()
def use(**more):
    aios.tools.call(tool, {"path": path, "who": who, **more})
def work():
    for _ in range(50):
        use()
threads = [threading.Thread(target=work) for _ in range(10)]
[t.start() for t in threads]; [t.join() for t in threads]
print("done", flush=True)
if wait_for:
    open(wait_for).readline()
use(**({"door": door} if door else {}))
print("done again", flush=True)
"""


@pytest.fixture
def offerer(tools: Machine) -> Iterator[subprocess.Popen[str]]:
    """An agent that offers ``alone`` of the tools above, in two threads."""
    code = f"{TOOLS}\naios.tools.offer(alone, threads=2)\nprint('ready', flush=True)\naios.recv()"
    made = tools.popen("run", "--name", "offerer", tools.agent("offerer", code))
    assert made.stdout and made.stdout.readline() == "ready\n"
    yield made
    tools.aios("kill", "offerer")
    made.communicate(timeout=TIMEOUT_S)


@pytest.mark.parametrize("tool", ["my.alone", "alone"])
def test_two_agents_use_one_exclusive_tool_500_times_at_once(
    tools: Machine, offerer: subprocess.Popen[str], tool: str
) -> None:
    """No overlap, no starvation, no deadlock after one is killed inside; a tool of the toolhost's
    is ended with its caller, an offered one stays taken until its agent is done with the call."""
    path, door = tools.folder / f"order-{tool}", tools.folder / f"door-{tool}"
    after = tools.folder / f"after-{tool}"
    os.mkfifo(door)
    os.mkfifo(after)
    a_is_inside = os.open(after, os.O_RDWR)
    starts = [f"{path}-start-{who}" for who in "ab"]
    for start in starts:
        os.mkfifo(start)
    agent = tools.agent("user", USER)
    first, second = (
        tools.popen("run", "--name", who, agent, "--", tool, str(path), who, *map(str, way))
        for who, way in (("a", (door, "")), ("b", ("", after)))
    )
    for fd in [os.open(start, os.O_WRONLY) for start in starts]:  # both are there
        os.close(fd)
    writer = os.open(door, os.O_WRONLY)  # a has had its 500, and is inside once more
    os.write(a_is_inside, b"\n")  # b has another call now, after its own 500
    _end_now(tools, "a")
    with operator(tools) as connection:
        assert first.communicate(timeout=TIMEOUT_S)[0] == "done\n"
        if tool == "alone":
            while not (waits := _waits(connection).get("b")):
                assert second.poll() is None
            assert all("serves pid" in each for each in waits)
            before = path.read_text()
            assert before.endswith("a in\n"), "nobody is let in beside the first"
    os.close(writer)
    out, err = second.communicate(timeout=TIMEOUT_S)
    os.close(a_is_inside)
    assert out == "done\ndone again\n", err
    lines = path.read_text().split("\n")[:-1]
    if tool == "my.alone":
        del lines[len(lines) - 1 - lines[::-1].index("a in")]  # its last call was ended inside
    assert len(lines) == (2002 if tool == "my.alone" else 2004)
    assert all(a.replace(" in", " out") == b for a, b in zip(lines[::2], lines[1::2], strict=True))
    order = [line[0] for line in lines[::2]]
    first_end = min(len(order) - 1 - order[::-1].index(who) for who in "ab")
    begun = max(order.index(who) for who in "ab")
    both = order[begun:first_end]
    assert len(both) > 100, "they hardly met"
    for who in "ab":  # the gate's own tests show the order; here machines have their moods
        assert both.count(who) > len(both) / 4, f"{who} had {both.count(who)} of {len(both)}"


def test_waiting_is_seen_and_ends_when_the_holder_is_killed(tools: Machine) -> None:
    doors = [tools.folder / "door-a", tools.folder / "door-b"]
    for door in doors:
        os.mkfifo(door)
    code = "import aios, sys; print(aios.tools.call('my.hold', {'fifo': sys.argv[1]}))"
    agent = tools.agent("holds", code)
    first = tools.popen("run", "--name", "holder", agent, "--", str(doors[0]))
    writer = os.open(doors[0], os.O_WRONLY)  # it is inside, and stays there
    second = tools.popen("run", "--name", "waiter", agent, "--", str(doors[1]))
    with operator(tools) as connection:
        while not (waits := _waits(connection)):  # until its call has come
            assert second.poll() is None
        (pid,) = (r.pid for r in connection.call("proc.ps", PsRequest()).processes
                  if r.name == "holder")  # fmt: skip
        assert waits == {"waiter": [f"my.hold (pid {pid} is in it)"]}
    table = tools.aios("ps").stdout
    assert "WAITS" in table and f"my.hold (pid {pid} is in it)" in table
    assert tools.aios("kill", "holder").returncode == 0
    first.communicate(timeout=TIMEOUT_S)
    with open(doors[1], "w") as file:  # waits until the waiter's call has opened it
        file.write("in at last")
    assert second.communicate(timeout=TIMEOUT_S)[0] == "in at last\n"
    os.close(writer)


def _waits(connection: Connection) -> dict[str, list[str]]:
    rows = connection.call("proc.ps", Empty()).processes
    return {row.name: row.waits for row in rows if row.waits}


# ---------------------------------------------------------------------------- offers

SELLER = """
import aios, os, time
@aios.tool(effect="read")
def greet(name: str) -> str:
    "Greet somebody."
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
    assert info.source.startswith("pid ") and info.spec.description == "Greet somebody."
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


def test_whatever_an_offered_function_does_its_caller_is_answered(
    tools: Machine, guest: Connection
) -> None:
    seller = tools.popen("run", "--name", "bad", tools.agent("bad", BAD_SELLER))
    assert seller.stdout and seller.stdout.readline() == "ready\n"
    for kind, error, words in (
        ("exit", ToolFailed, "SystemExit"), ("words", ToolFailed, "ValueError"),
        ("mute", ToolFailed, "raised"), ("big", ResourceExhausted, "limit"),
        ("object", ToolFailed, "no JSON"), ("half", ToolFailed, "no JSON"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            _call(guest, "odd", kind=kind)
    assert _call(guest, "odd", kind="fine") == "fine"
    door = tools.folder / "odd-door"
    os.mkfifo(door)
    with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.4 s"):
        _call(guest, "odd", kind="hang", door=str(door))
    with pytest.raises(DeadlineExceeded):  # the first may still run, so nobody is let in
        _call(guest, "odd", 0.2, kind="fine")
    os.close(os.open(door, os.O_WRONLY))
    assert _call(guest, "odd", kind="fine") == "fine"
    assert tools.aios("pause", "bad").returncode == 0
    with pytest.raises(DeadlineExceeded):
        _call(guest, "odd", kind="fine")
    assert tools.aios("resume", "bad").returncode == 0
    assert _call(guest, "odd", kind="fine") == "fine"
    with ThreadPoolExecutor() as pool:
        held = pool.submit(_of_its_own, tools, "odd", kind="hang", door=str(door))
        writer = os.open(door, os.O_WRONLY)
        waiting = [pool.submit(_of_its_own, tools, "odd", kind="fine") for _ in range(3)]
        _end_now(tools, "bad")
        for each in (held, *waiting):  # those that wait for their turn end with it, too
            with pytest.raises((ToolUnavailable, NotFound)):
                each.result(TIMEOUT_S)
        os.close(writer)
    seller.communicate(timeout=TIMEOUT_S)


def test_offers_that_cannot_be(guest: Connection) -> None:
    for name in ("calculate", "my.double", "a.b"):
        with pytest.raises(InvalidArgument, match="cannot be offered"):
            guest.call("tool.offer", OfferRequest([ToolSpec(name)]))
    with pytest.raises(InvalidArgument):
        guest.call("tool.offer", OfferRequest([ToolSpec("x"), ToolSpec("x")]))
    with pytest.raises(NotFound):
        guest.call("tool.answer", ToolAnswer(1, "1"))


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
def test_files_that_are_no_tools(tools: Machine, code: str, words: str) -> None:
    (tools.folder / "bad.py").write_text(code)
    got = tools.aios("tool", "add", "bad", str(tools.folder / "bad.py"))
    assert got.returncode == 1 and words in got.stderr
    assert "bad" not in tools.aios("tool", "ls").stdout
