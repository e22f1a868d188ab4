"""Agents from several Python environments at once; each environment has its own zygote."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from aios.syscalls.errors import InvalidArgument, ResourceExhausted
from aios.syscalls.types.process import SpawnReply, SpawnRequest
from tests import environments
from tests.conftest import FAKE, IDLE, TIMEOUT_S, Machine, folders, operator
from tests.waiting import wait_for_end

SHOW = """
import sys, aios
try:
    import only_there
    print("only_there")
except ImportError:
    print("nothing")
print(sys.executable, sys.prefix, aios.chat("hi", max_tokens=2).usage.completion_tokens)
"""


class World(NamedTuple):
    """A kernel, and an environment with a package that the kernel's environment lacks."""

    machine: Machine
    kernel: psutil.Process
    folder: Path
    python: str

    def zygotes(self) -> dict[str, psutil.Process]:
        """Return the zygotes by interpreter."""
        children = [child for child in self.kernel.children() if _is_zygote(child)]
        return {child.cmdline()[0]: child for child in children}

    def alive(self) -> set[int]:
        """Return the pids of the running agents."""
        return {row["pid"] for row in json.loads(self.machine.aios("ps", "--json").stdout)}

    def detached(self, name: str, *words: str) -> tuple[int, int]:
        """Run an idle agent; return its pid and host pid."""
        path = self.machine.agent(name, IDLE)
        got = self.machine.aios("run", "-d", "--json", *words, path)
        assert got.returncode == 0, got.stderr
        row = json.loads(got.stdout)[0]
        return row["pid"], row["os_pid"]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with folders() as machine:
        machine.env["XDG_CACHE_HOME"] = str(machine.folder / "cache")
        folder = machine.folder / "environment"
        environments.make(folder)
        (environments.site(folder) / "only_there.py").touch()
        os_pid = machine.start(*FAKE)
        python = f"{folder}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
        yield World(machine, psutil.Process(os_pid), folder, python)
        assert "Traceback" not in machine.log()


def test_agents_of_two_environments_run_at_once(world: World) -> None:
    path = world.machine.agent("show", SHOW)
    both = [world.machine.popen("run", *words, path)
            for words in ([], ["--python", str(world.folder)])]  # fmt: skip
    shown = [running.communicate(timeout=TIMEOUT_S)[0].split() for running in both]
    assert shown == [
        ["nothing", sys.executable, sys.prefix, "2"],
        ["only_there", world.python, str(world.folder), "2"],
    ]
    assert world.python in world.zygotes() and len(world.zygotes()) == 2


def test_an_agent_and_its_children_run_in_the_active_environment(world: World) -> None:
    show = world.machine.agent("kid", SHOW)
    path = world.machine.agent(
        "mum", f"import aios\nkid = aios.spawn({show!r})\nprint(kid.wait().exit_code)"
    )
    world.machine.env["VIRTUAL_ENV"] = str(world.folder)
    try:
        got = world.machine.aios("run", path)
    finally:
        del world.machine.env["VIRTUAL_ENV"]
    assert got.returncode == 0, got.stderr
    assert got.stdout.split() == ["only_there", world.python, str(world.folder), "2", "0"]


def test_an_agent_imports_from_the_callers_pythonpath(world: World) -> None:
    (world.machine.folder / "shelf").mkdir()
    (world.machine.folder / "shelf" / "on_the_shelf.py").write_text("X = 5")
    path = world.machine.agent("shelf", "import on_the_shelf; print(on_the_shelf.X)")
    for words in ([], ["--python", str(world.folder)]):
        got = world.machine.aios("run", "--env", "PYTHONPATH=shelf", *words, path)
        assert got.stdout == "5\n", got.stderr


def test_a_killed_zygote_ends_only_its_own_agents(world: World) -> None:
    here, _ = world.detached("here")
    there, os_pid = world.detached("there", "--python", str(world.folder))
    world.zygotes()[world.python].kill()
    status = json.loads(world.machine.aios("wait", "--json", str(there)).stdout)[0]
    assert (status["exit_code"], status["reason"]) == (137, "the zygote died")
    wait_for_end(os_pid)
    assert world.alive() == {here}
    assert (
        "only_there"
        in world.machine.aios(
            "run", "--python", str(world.folder), world.machine.agent("show", SHOW)
        ).stdout
    )
    again, _ = world.detached("again", "--python", str(world.folder))
    own = next(z for python, z in world.zygotes().items() if python != world.python)
    own.kill()
    assert world.machine.aios("wait", str(here)).returncode == 137
    assert world.alive() == {again}
    assert world.machine.aios("run", world.machine.agent("show", SHOW)).returncode == 0
    world.machine.aios("kill", str(again))


def test_a_syntax_error_is_refused_for_a_python_of_the_same_version(world: World) -> None:
    path = world.machine.agent("bad", "def")
    got = world.machine.aios("run", "--python", str(world.folder), path)
    assert got.returncode == 126 and "mend it" in got.stderr, "its own Python cannot read it either"


def test_a_bad_interpreter_fails_only_its_own_spawn(world: World) -> None:
    path = world.machine.agent("show", SHOW)
    with operator(world.machine) as connection:
        for python, kind, words in (
            ("/nowhere/python", InvalidArgument, "No such file"),
            ("/bin/true", ResourceExhausted, "the zygote died"),
            ("python", InvalidArgument, "python"),
        ):
            with pytest.raises(kind, match=words):
                connection.call("proc.spawn", SpawnRequest(path, python=python))
        reply: SpawnReply = connection.call("proc.spawn", SpawnRequest(path, python=world.python))
        assert reply.os_pid
    world.machine.aios("wait", str(reply.pid))


def test_only_the_operator_chooses_an_interpreter(world: World) -> None:
    code = (
        "import aios\nfrom aios import session\n"
        "from aios.syscalls.types.process import SpawnRequest\n"
        "spec = SpawnRequest(__file__, python='/bin/true')\n"
        "try: session.current().connection().call('proc.spawn', spec)\n"
        "except aios.PermissionDenied as error: print(error.hint)\n"
    )
    got = world.machine.aios("run", world.machine.agent("asks", code))
    assert got.stdout == "use: aios run --python\n"


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_no_process_outlives_the_kernel(stopped: Machine, how: str) -> None:
    stopped.env["XDG_CACHE_HOME"] = str(stopped.folder / "cache")
    environments.make(stopped.folder / "environment")
    kernel = psutil.Process(stopped.start(*FAKE))
    world = World(stopped, kernel, stopped.folder / "environment", "")
    agents = [world.detached("here"), world.detached("there", "--python", str(world.folder))]
    zygotes = [zygote.pid for zygote in world.zygotes().values()]
    assert len(zygotes) == 2
    getattr(kernel, how)()
    for os_pid in (kernel.pid, *zygotes, *(os_pid for _, os_pid in agents)):
        wait_for_end(os_pid)


def _is_zygote(process: psutil.Process) -> bool:
    return "aios.boot.zygote" in process.cmdline()
