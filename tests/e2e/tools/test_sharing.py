"""Exclusive tools that several agents call at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from aios.syscalls.types.process import PsRequest
from tests.conftest import TIMEOUT_S, Machine, operator

from .rig import TOOLS, end_now, waits_of_agents

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
    """An agent that offers the tool ``alone``, in two threads."""
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
    """No overlap, no starvation, and no deadlock after a caller is killed during its call.

    The toolhost ends its tool with the caller; an offered tool stays locked until its agent has
    finished the call.
    """
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
    for fd in [os.open(start, os.O_WRONLY) for start in starts]:  # both have started
        os.close(fd)
    writer = os.open(door, os.O_WRONLY)  # a has finished its 500 calls, and is in one more
    os.write(a_is_inside, b"\n")  # b makes one more call after its own 500
    end_now(tools, "a")
    with operator(tools) as connection:
        assert first.communicate(timeout=TIMEOUT_S)[0] == "done\n"
        if tool == "alone":
            while not (waits := waits_of_agents(connection).get("b")):
                assert second.poll() is None
            assert all("serves pid" in each for each in waits)
            before = path.read_text()
            assert before.endswith("a in\n"), "no call begins while the first runs"
    os.close(writer)
    out, err = second.communicate(timeout=TIMEOUT_S)
    os.close(a_is_inside)
    assert out == "done\ndone again\n", err
    lines = path.read_text().split("\n")[:-1]
    if tool == "my.alone":
        del lines[len(lines) - 1 - lines[::-1].index("a in")]  # its last call was killed
    assert len(lines) == (2002 if tool == "my.alone" else 2004)
    assert all(a.replace(" in", " out") == b for a, b in zip(lines[::2], lines[1::2], strict=True))
    order = [line[0] for line in lines[::2]]
    first_end = min(len(order) - 1 - order[::-1].index(who) for who in "ab")
    begun = max(order.index(who) for who in "ab")
    both = order[begun:first_end]
    assert len(both) > 100, "the two agents hardly overlapped"
    for who in "ab":  # the order is tested with the gate; here timing varies
        assert both.count(who) > len(both) / 4, f"{who} had {both.count(who)} of {len(both)}"


def test_a_waiting_call_is_shown_and_runs_when_the_holder_is_killed(tools: Machine) -> None:
    doors = [tools.folder / "door-a", tools.folder / "door-b"]
    for door in doors:
        os.mkfifo(door)
    code = "import aios, sys; print(aios.tools.call('my.hold', {'fifo': sys.argv[1]}))"
    agent = tools.agent("holds", code)
    first = tools.popen("run", "--name", "holder", agent, "--", str(doors[0]))
    writer = os.open(doors[0], os.O_WRONLY)  # its call runs, and keeps running
    second = tools.popen("run", "--name", "waiter", agent, "--", str(doors[1]))
    with operator(tools) as connection:
        while not (waits := waits_of_agents(connection)):  # until its call has arrived
            assert second.poll() is None
        (pid,) = (r.pid for r in connection.call("proc.ps", PsRequest()).processes
                  if r.name == "holder")  # fmt: skip
        assert waits == {"waiter": [f"my.hold (pid {pid} uses it)"]}
    table = tools.aios("ps").stdout
    assert "WAITS" in table and f"my.hold (pid {pid} uses it)" in table
    assert tools.aios("kill", "holder").returncode == 0
    first.communicate(timeout=TIMEOUT_S)
    with open(doors[1], "w") as file:  # blocks until the waiter's call has opened it
        file.write("in at last")
    assert second.communicate(timeout=TIMEOUT_S)[0] == "in at last\n"
    os.close(writer)
