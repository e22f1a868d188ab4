"""The audit log as a user reads it: it is complete, and changes to it are detected."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios.syscalls import paths
from aios.syscalls.types.common import Empty
from tests.conftest import FAKE, IDLE, Machine, folders, operator
from tests.waiting import wait_for_end, wait_until


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_every_call_is_logged_with_its_rule(own: Machine) -> None:
    code = "import aios\nfor _ in range(50): aios.getpid()\naios.chat('top secret', max_tokens=2)"
    own.aios("run", "--name", "logged", own.agent("logged", code))
    own.aios("daemon", "down")
    records = own.audit("--agent", "logged")
    calls = [r["name"] for r in records if r["kind"] == "call"]
    assert calls.count("getpid") == 50 and calls.count("llm.chat") == 1
    assert all(r["outcome"] == "allowed" and r["rule"] for r in records)
    assert any(r["kind"] == "model" and r["rule"] == "allow model:* (group agent)" for r in records)
    assert "top secret" not in json.dumps(own.audit())
    got = own.aios("audit", "verify")
    assert got.returncode == 0 and "are unchanged" in got.stdout
    assert "logged" in own.aios("audit", "--agent", "logged", "-n", "3").stdout


def test_following_shows_new_records(own: Machine) -> None:
    go = own.folder / "go"
    os.mkfifo(go)
    code = f"import aios; aios.getpid(); open({str(go)!r}).read(); aios.ps()"
    own.aios("run", "-d", "--name", "shown", own.agent("a", code))
    following = own.popen("audit", "-f", "--json", "-n", "1", "--agent", "shown")
    assert following.stdout
    record = json.loads(following.stdout.readline())
    assert (record["agent"], record["name"]) == ("shown", "getpid")
    go.write_text("on")
    record = json.loads(following.stdout.readline())
    assert (record["agent"], record["name"]) == ("shown", "proc.ps")
    following.kill()
    following.communicate()


@pytest.fixture(scope="module")
def sound() -> Iterator[tuple[Machine, bytes]]:
    """A stopped kernel and its intact log; each test overwrites the file."""
    with folders() as machine:
        machine.start(*FAKE)
        machine.aios("run", machine.agent("a", "import aios\nfor _ in range(30): aios.getpid()"))
        machine.aios("daemon", "down")
        (path,) = machine.audit_folder().glob("*.jsonl")
        yield machine, path.read_bytes()


@pytest.mark.parametrize("how", ["edited", "deleted", "inserted", "reordered", "cut"])
def test_tampering_with_the_log_is_detected(sound: tuple[Machine, bytes], how: str) -> None:
    machine, whole = sound
    (path,) = machine.audit_folder().glob("*.jsonl")
    lines = whole.splitlines(keepends=True)
    match how:
        case "edited":
            lines[9] = lines[9].replace(b'"allowed"', b'"refused"')
        case "deleted":
            del lines[9]
        case "inserted":
            lines.insert(9, lines[4])
        case "reordered":
            lines[9], lines[10] = lines[10], lines[9]
        case "cut":
            del lines[9:]
    path.write_bytes(b"".join(lines))
    got = machine.aios("audit", "verify", "--json")
    problem = json.loads(got.stdout)["problem"]
    assert got.returncode == 1 and ("record 10 " in problem or "record 5 " in problem), problem
    assert machine.aios("audit", "verify").stderr.startswith("aios: record")


def test_a_killed_kernel_leaves_a_sound_log(stopped: Machine) -> None:
    """Kill the kernel five times during calls; every acknowledged mutation is in the log."""
    done = stopped.folder / "done"
    code = f"""
import aios, os
me = aios.getpid()
with open({str(done)!r}, "ab", buffering=0) as file:
    while True:
        aios.send(me, 1)
        aios.recv()
        file.write(b"x")
"""
    path = stopped.agent("a", code)
    for _ in range(5):
        os_pid = stopped.start(*FAKE)
        stopped.aios("run", "-d", path)
        before = _size(done)
        wait_until(lambda: _size(done) >= before + 50, "50 messages")  # noqa: B023
        os.kill(os_pid, signal.SIGKILL)
        wait_for_end(os_pid)
    stopped.start(*FAKE)
    assert stopped.aios("audit", "verify").returncode == 0
    received = [r for r in stopped.audit() if r["name"] == "ipc.recv"]
    assert len(received) >= done.stat().st_size


def test_audit_without_a_log_says_how_to_start_the_kernel(stopped: Machine) -> None:
    for words in (["audit"], ["audit", "verify"], ["audit", "-f"]):
        got = stopped.aios(*words)
        assert got.returncode == 1 and "aios daemon up" in got.stderr, (words, got)


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_full_audit_disk_stops_only_mutations(stopped: Machine) -> None:
    folder = stopped.folder / "state" / "aios" / "audit"
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)])
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    try:
        stopped.start(*FAKE)
        with (folder / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(b"x" * 65536):
                    pass
            except OSError:
                pass
        code = """
import aios
me, sent = aios.getpid(), 0
try:
    while True:
        aios.send(me, 1); sent += 1
        aios.recv(); sent += 1
except aios.AuditUnavailable as error:
    print(sent, "No space left" in str(error), aios.getpid() == me, len(aios.ps()) > 0)
"""
        got = stopped.aios("run", "-d", "--name", "full", stopped.agent("full", code))
        assert got.returncode == 0, got.stderr
        stopped.aios("wait", "full")
        sent, *rest = stopped.aios("logs", "full").stdout.split()
        assert rest == ["True", "True", "True"] and int(sent) > 100
        assert stopped.aios("run", stopped.agent("b", "")).returncode == 125
        assert "audit log" in stopped.aios("call", "kernel.check").stdout
        stopped.aios("run", "-d", stopped.agent("c", IDLE))
        assert stopped.aios("ps").returncode == 0 and stopped.aios("perm", "ls").returncode == 0
        (folder / "filler").unlink()
        with operator(stopped) as connection:
            wait_until(
                lambda: not connection.call("kernel.check", Empty()).problems,
                "the next try of the log",
            )
        assert (
            stopped.aios("run", stopped.agent("d", "import aios; aios.chat('x')")).returncode == 0
        )
        stopped.aios("daemon", "down")
        assert stopped.aios("audit", "verify").returncode == 0
        mutations = [r for r in stopped.audit("--agent", "full") if r["effect"] != "read"
                     and r["kind"] == "call" and r["outcome"] == "allowed"]  # fmt: skip
        assert len(mutations) >= int(sent)
        assert any(r["action"] == "gap" for r in stopped.audit())
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_only_the_user_can_read_the_audit_key(own: Machine) -> None:
    key = own.folder / "data" / "aios" / "audit" / "key"
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    assert own.audit_folder().parent == own.folder / "state" / "aios" / "audit"
    assert own.audit_folder().name == paths.audit_dir(own.runtime).name
