"""Start, restart and end of the kernel, and settings that keep it from starting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import TIMEOUT_S, Machine
from tests.waiting import wait_for_end


def test_up_and_down_may_be_repeated(stopped: Machine) -> None:
    assert stopped.aios("daemon", "status").returncode == 3
    assert stopped.aios("daemon", "down").returncode == 0
    assert stopped.aios("daemon", "up", "--model", "fake").returncode == 0
    again = stopped.aios("daemon", "up")
    assert again.returncode == 0 and "already" in again.stdout
    second = subprocess.run(
        [sys.executable, "-P", "-m", "aios.kernel.daemon"],
        env=stopped.env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert second.returncode == 1 and "already" in second.stderr
    status = json.loads(stopped.aios("daemon", "status", "--json").stdout)
    assert status["models"][0]["name"] == "fake"
    family = [p.pid for p in psutil.Process(status["os_pid"]).children(recursive=True)]
    assert len(family) == 2, "zygote and core"
    assert stopped.aios("daemon", "restart", "--model", "fake").returncode == 0
    for os_pid in family:
        wait_for_end(os_pid)
    assert stopped.aios("daemon", "down").returncode == 0
    assert [p.name for p in stopped.runtime.iterdir()] == ["aiosd.lock"]


def test_a_killed_kernel_leaves_no_process_and_can_be_restarted(stopped: Machine) -> None:
    os_pid = stopped.start("--model", "fake")
    path = stopped.agent("a", "import aios\nwhile True: aios.chat('x')")
    stopped.aios("run", "-d", path)
    family = [p.pid for p in psutil.Process(os_pid).children(recursive=True)]
    assert len(family) == 3
    os.kill(os_pid, signal.SIGKILL)
    for each in (os_pid, *family):
        wait_for_end(each)
    assert stopped.aios("daemon", "status").returncode == 1
    assert stopped.aios("ps").returncode == 1
    stopped.start("--model", "fake")
    assert stopped.aios("daemon", "status").returncode == 0


def _policy(machine: Machine) -> tuple[str, str]:
    status = json.loads(machine.aios("daemon", "status", "--json").stdout)
    return status["models"][0]["name"], status["policy"]


def test_a_restart_keeps_the_settings_of_before_and_says_which(stopped: Machine) -> None:
    stopped.env["AIOS_POLICY"] = "rr"
    up = stopped.aios("daemon", "up", "--model", "fake:end=0", "--kv_ram=64M")
    assert up.returncode == 0, up.stderr
    del stopped.env["AIOS_POLICY"]
    got = stopped.aios("daemon", "restart")
    assert got.returncode == 0 and "--model=fake:end=0 --kv-ram=64M" in got.stdout, got.stderr
    assert _policy(stopped) == ("fake:end=0", "rr")
    got = stopped.aios("daemon", "restart", "--model", "fake:end=1", "--json")
    assert json.loads(got.stdout)["kept"] == ["--policy=rr", "--kv-ram=64M"]
    assert _policy(stopped) == ("fake:end=1", "rr")
    os_pid = json.loads(stopped.aios("daemon", "status", "--json").stdout)["os_pid"]
    os.kill(os_pid, signal.SIGKILL)
    wait_for_end(os_pid)
    assert "--model=fake:end=1" in stopped.aios("daemon", "restart").stdout
    stopped.aios("daemon", "down")
    assert "as before" not in stopped.aios("daemon", "restart", "--model", "fake").stdout


def test_relative_paths_are_the_callers(stopped: Machine) -> None:
    config = stopped.folder / "c.toml"
    config.write_text('model = "fake"\npolicy = "rr"\n')
    (stopped.folder / "policy.toml").write_text("no policy")
    got = stopped.aios("daemon", "up", "--config", "c.toml")
    assert got.returncode == 1 and "policy.toml" in got.stderr, "the one beside the named file"
    (stopped.folder / "policy.toml").unlink()
    assert stopped.aios("daemon", "up", "--config=./c.toml").returncode == 0
    assert _policy(stopped) == ("fake", "rr")
    stopped.aios("daemon", "down")
    stopped.env["AIOS_CONFIG"] = "c.toml"
    assert stopped.aios("daemon", "up").returncode == 0
    assert _policy(stopped) == ("fake", "rr")
    stopped.aios("daemon", "down")
    got = stopped.aios("daemon", "up", "--config", "none.toml")
    assert got.returncode == 1 and "no configuration file" in got.stderr


def test_run_starts_the_kernel(stopped: Machine) -> None:
    (stopped.folder / "config.toml").write_text('model = "fake"\n')
    got = stopped.aios("run", stopped.agent("a", "import aios; print(aios.getpid())"))
    assert (got.returncode, got.stdout) == (0, "1\n") and "starting the kernel" in got.stderr


def test_a_program_run_by_hand_says_how_to_start_the_kernel(stopped: Machine) -> None:
    path = stopped.agent("a", "import aios; aios.getpid()")
    got = subprocess.run(
        [sys.executable, path], env=stopped.env, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert got.returncode == 1 and "aios daemon up" in got.stderr


def test_wrong_settings_keep_the_kernel_from_starting(stopped: Machine) -> None:
    (stopped.folder / "config.toml").write_text("seets = 3\n")
    got = stopped.aios("daemon", "up")
    assert got.returncode == 1 and "did you mean 'seats'" in got.stderr
    (stopped.folder / "config.toml").write_text('policy = "rrr"\n')
    got = stopped.aios("daemon", "up")
    assert got.returncode == 1 and "did you mean 'rr'" in got.stderr
    (stopped.folder / "config.toml").unlink()
    for flags, said in ((["--seets", "3"], "'seats'"), (["--seats"], "needs a value")):
        got = stopped.aios("daemon", "up", *flags)
        assert got.returncode == 1 and said in got.stderr
    assert stopped.aios("daemon", "status").returncode == 3


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_full_runtime_folder_is_an_error(stopped: Machine) -> None:
    stopped.runtime.mkdir()
    options = "size=4k,nr_inodes=2"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(stopped.runtime)])
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    try:
        (stopped.runtime / "filler").touch()
        got = stopped.aios("daemon", "up", "--model", "fake")
        assert got.returncode == 1 and "No space left" in got.stderr
        assert stopped.aios("daemon", "status").returncode == 3
    finally:
        subprocess.run(["umount", str(stopped.runtime)], check=True)


def test_a_runtime_path_that_is_too_long_is_an_error(stopped: Machine) -> None:
    stopped.env["AIOS_RUNTIME_DIR"] = str(stopped.folder / ("x" * 100))
    got = stopped.aios("daemon", "up")
    assert got.returncode == 1 and "AIOS_RUNTIME_DIR" in got.stderr


def test_a_restart_with_wrong_settings_keeps_the_kernel_running(stopped: Machine) -> None:
    os_pid = stopped.start("--model", "fake")
    got = stopped.aios("daemon", "restart", "--core-timeout", "abc")
    assert got.returncode == 1 and "core_timeout = 'abc'" in got.stderr
    policy = stopped.folder / "policy.toml"
    policy.write_text("no policy")
    got = stopped.aios("daemon", "restart")
    assert got.returncode == 1 and f"policy {policy}" in got.stderr
    policy.unlink()
    status = stopped.aios("daemon", "status")
    assert status.returncode == 0 and f"pid {os_pid}," in status.stdout
