"""The name of a child belongs to the program that first used it; other programs cannot take it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import KernelStatus
from tests.conftest import Machine, operator

FAKE = ("--model", "fake:step_ms=1,end=0")
RESEARCHER = """
import aios, json, sys
if "keep" in sys.argv:
    aios.fs.write("a", b"x")
    aios.kv.set("k", 1)
    aios.memory.add("a note", persist=True)
    aios.context.chat("hi", max_tokens=2)
    aios.context.save("plan")
me = next(row.name for row in aios.ps() if row.pid == aios.getpid())
print(json.dumps([me, [f.path for f in aios.fs.list("/")], aios.kv.get("k"),
                  [n.text for n in aios.memory.list("agent").notes],
                  [c.name for c in aios.context.saved()],
                  [s.owner for s in aios.fs.shares().received]]), flush=True)
"""
PROGRAM = """
import aios, json, sys
path, name, *words = sys.argv[1:]
try:
    aios.spawn(path, *words, name=name or None).wait()
except aios.AiosError as error:
    print(json.dumps([error.code, error.message, error.hint]))
"""
ALL = [["/a"], 1, ["a note"], ["plan"]]
NOTHING: list[Any] = [[], None, [], []]


@pytest.fixture
def own(stopped: Machine) -> Iterator[Machine]:
    """A kernel of the test's own."""
    stopped.start(*FAKE)
    yield stopped
    assert "Traceback" not in stopped.log()


def _run(machine: Machine, program: str, name: str, *words: str) -> list[object]:
    """Let a program start a child; return what the child prints, or the error."""
    path = machine.agent("researcher", RESEARCHER)
    got = machine.aios(
        "run", "--name", program, machine.agent("program", PROGRAM), "--", path, name, *words
    )
    assert got.returncode == 0 and got.stdout, got
    said: list[object] = json.loads(got.stdout.splitlines()[-1])
    return said


def _kill_and_restart(machine: Machine) -> None:
    with operator(machine) as connection:
        status: KernelStatus = connection.call("kernel.status", Empty())
    os.kill(status.os_pid, signal.SIGKILL)
    machine.aios("daemon", "down")
    machine.start(*FAKE)


def test_a_program_cannot_reach_what_anothers_child_stored(own: Machine) -> None:
    assert _run(own, "first", "researcher", "keep")[:5] == ["researcher", *ALL]
    sharer = own.agent("sharer", """
import aios
aios.fs.write('s', b's')
print([aios.fs.share('/s', name).unused for name in ('researcher', 'new', '*')])
aios.fs.unshare('/s', '*')
""")  # fmt: skip
    assert own.aios("run", sharer).stdout == "[False, True, False]\n"
    for again in (lambda: own.aios("daemon", "restart", *FAKE), lambda: _kill_and_restart(own)):
        refused = _run(own, "second", "researcher")
        assert refused[0] == "PERMISSION_DENIED", refused
        assert "may not name a child 'researcher'" in str(refused[1])
        assert "first" not in str(refused) and "another name; or the operator" in str(refused[2])
        assert _run(own, "second", "") == ["researcher-2", *NOTHING, []], "a new name"
        assert _run(own, "first", "") == ["researcher", *ALL, ["sharer"]], "it finds its own again"
        assert _run(own, "first", "researcher") == ["researcher", *ALL, ["sharer"]]
        again()
    own.aios("perm", "grant", "second", "allow agent.name:other/researcher")
    assert _run(own, "second", "researcher") == ["researcher", *ALL, ["sharer"]]
    assert _run(own, "second", "")[0] == "researcher-2", "not its owner"


def test_the_operator_takes_a_childs_name_only_on_request(own: Machine) -> None:
    assert _run(own, "first", "researcher", "keep")[0] == "researcher"
    path = own.agent("researcher", RESEARCHER)
    for _ in range(2):
        said = json.loads(own.aios("run", path).stdout.splitlines()[-1])
        assert said == ["researcher-2", *NOTHING, []]
        assert _run(own, "first", "")[0] == "researcher", "the first owner keeps it"
        own.aios("daemon", "restart", *FAKE)
    said = json.loads(own.aios("run", "--name", "researcher", path).stdout.splitlines()[-1])
    assert said[:5] == ["researcher", *ALL]
    refused = _run(own, "first", "researcher")
    assert refused[0] == "PERMISSION_DENIED" and "the operator has run" in str(refused[1])
    assert _run(own, "first", "") == ["researcher-3", *NOTHING, []]


def test_a_mount_reserves_its_agents_name_for_the_operator(own: Machine, tmp_path: Path) -> None:
    assert own.aios("storage", "mount", "researcher", str(tmp_path)).returncode == 0
    assert _run(own, "first", "researcher")[0] == "PERMISSION_DENIED"
    assert _run(own, "first", "")[0] == "researcher-2"
    said = own.aios("run", own.agent("researcher", RESEARCHER)).stdout
    assert json.loads(said.splitlines()[-1])[0] == "researcher"
