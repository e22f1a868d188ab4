"""Cores, zygotes and agents that are killed, and models that cannot be loaded."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal

import psutil
import pytest

from aios.syscalls import paths
from aios.syscalls.types.common import Empty
from aios.syscalls.types.process import RefRequest
from tests.conftest import TIMEOUT_S, Machine, operator
from tests.waiting import wait_for_end, wait_until

from .rig import core_of


@pytest.fixture(scope="module")
def story(_fake_kernel: Machine) -> tuple[str, str]:
    """An agent that prints the tokens of a story, and its output when it runs alone."""
    code = "import aios; print(aios.chat('story', max_tokens=300, temperature=1.0).tokens)"
    path = _fake_kernel.agent("story", code)
    return path, _fake_kernel.aios("run", path).stdout


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_core_changes_no_token(
    machine: Machine, story: tuple[str, str], seed: int
) -> None:
    path, alone = story
    running = [machine.popen("run", path) for _ in range(6)]
    rng = random.Random(seed)
    for _ in range(2):
        with operator(machine) as connection:
            connection.call("kernel.status", Empty())
        select.select([], [], [], rng.random() / 2)  # at some moment
        core = core_of(machine)
        if core:
            os.kill(core, signal.SIGKILL)
            wait_for_end(core)
    outputs = [process.communicate(timeout=TIMEOUT_S) for process in running]
    assert [out for out, _ in outputs] == [alone] * 6, outputs


def test_a_core_that_hangs_is_replaced(stopped: Machine) -> None:
    stopped.start("--model", "fake:step_ms=2,end=0", "--core-timeout", "5", "--chunk", "32")
    code = "import aios; print(len(aios.chat('x', max_tokens={}).tokens))"
    assert stopped.aios("run", stopped.agent("a", code.format(1))).stdout == "1\n"
    os.kill(core_of(stopped), signal.SIGSTOP)
    assert stopped.aios("run", stopped.agent("b", code.format(300))).stdout == "300\n"
    with operator(stopped) as connection:
        assert connection.call("model.list", Empty()).models[0].core_restarts >= 1


def test_a_request_that_kills_cores_is_given_up(stopped: Machine) -> None:
    stopped.start("--model", "fake:crash_after=1,end=0")
    code = (
        "import aios\ntry: aios.chat('x', max_tokens=50)\n"
        "except aios.ModelUnavailable as e: print(e)"
    )
    got = stopped.aios("run", stopped.agent("a", code))
    assert "died 3 times" in got.stdout
    assert stopped.aios("daemon", "status").returncode == 0


def test_a_killed_zygote_is_replaced(machine: Machine) -> None:
    path = machine.agent("idle", "import time; time.sleep(1000)")
    machine.aios("run", "-d", "--name", "orphan", path)
    with operator(machine) as connection:
        kernel = psutil.Process(connection.call("kernel.status", Empty()).os_pid)
        zygote = next(p for p in kernel.children() if "aios.boot.zygote" in p.cmdline())
        zygote.kill()
        status = connection.call("proc.wait", RefRequest("orphan"))
    assert (status.exit_code, status.reason) == (137, "the zygote died")
    assert machine.aios("run", machine.agent("b", "print('again')")).stdout == "again\n"


def test_killing_one_of_three_agents_leaves_the_others_unchanged(machine: Machine) -> None:
    """Twenty rounds, seed 20; each leaves no seat, process or descriptor behind."""
    rng = random.Random(20)
    path = machine.agent(
        "w",
        "import aios, sys\n"
        "for n in range(3): print(aios.chat(sys.argv[1] + str(n), max_tokens=25).tokens)",
    )
    expected = {n: machine.aios("run", path, "--", n).stdout for n in "abc"}
    descriptors = []
    for _ in range(20):
        running = {n: machine.popen("run", "--name", n, path, "--", n) for n in "abc"}
        victim = rng.choice("abc")
        select.select([], [], [], rng.random() * 0.4)
        with operator(machine) as connection:
            rows = connection.call("proc.ps", Empty()).processes
            for row in rows:
                if row.name == victim and row.os_pid:
                    with contextlib.suppress(ProcessLookupError):  # it may have ended
                        os.kill(row.os_pid, signal.SIGKILL)
        for name, process in running.items():
            out, err = process.communicate(timeout=TIMEOUT_S)
            if name != victim:
                assert (out, process.returncode) == (expected[name], 0), err
            else:
                assert process.returncode in (0, 137)
        with operator(machine) as connection:
            check = connection.call("kernel.check", Empty())
            model = connection.call("model.list", Empty()).models[0]
        assert check.problems == [] and model.seats_used == 0
        descriptors.append(check.open_files)
    assert max(descriptors[5:]) <= max(descriptors[:5]) + 1
    kernel = psutil.Process(paths.kernel_os_pid(machine.runtime))
    (zygote,) = (part for part in kernel.children() if "aios.boot.zygote" in part.cmdline())
    wait_until(lambda: not zygote.children(), "the end of all agents")


@pytest.mark.parametrize("kind", ["missing", "text", "truncated"])
def test_a_bad_model_is_explained_and_the_kernel_survives(machine: Machine, kind: str) -> None:
    path = machine.folder / "bad.gguf"
    path.write_bytes(
        {"missing": b"", "text": b"just words " * 99, "truncated": b"GGUF\x03" + bytes(99)}[kind]
    )
    if kind == "missing":
        path.unlink()
    code = "import aios\ntry: aios.chat('x')\nexcept aios.ModelUnavailable as e: print(e)"
    got = machine.aios("run", "--model", str(path), machine.agent("a", code))
    assert "bad.gguf" in got.stdout and "aios model ls" in got.stdout
    assert machine.aios("run", machine.agent("b", "import aios; aios.chat('x')")).returncode == 0
