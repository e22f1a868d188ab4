"""kill -9 during writes: every acknowledged write is there, none is torn."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import zmq

from aios.syscalls import storage_types as s
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import AiosError
from tests.conftest import Machine
from tests.kernel.storage_crasher import KEEP

ROUNDS = 180
KERNEL_ROUNDS = 20
SEED = 20261124


class _Ledger:
    """What was tried, acknowledged, and found again."""

    def __init__(self) -> None:
        self.tried: dict[str, set[str]] = {}
        self.acked: set[tuple[str, int]] = set()
        self.found: dict[tuple[str, int], str] = {}
        self.problems: list[str] = []

    def check(self) -> None:
        assert self.problems == []
        for (path, version), digest in self.found.items():
            assert digest in self.tried[path], f"{path} version {version} is nobody's: torn"
        newest: dict[str, int] = {}
        for path, version in self.found:
            newest[path] = max(version, newest.get(path, 0))
        for path, version in self.acked:
            pruned = version <= newest.get(path, 0) - KEEP
            assert pruned or (path, version) in self.found, f"{path}@{version} was acknowledged"


def test_acknowledged_writes_survive_a_killed_process(tmp_path: Path) -> None:
    """180 processes on the kernel's own code, killed at random moments (seed printed)."""
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    ledger = _Ledger()
    helper = subprocess.Popen(
        [sys.executable, "-m", "tests.kernel.storage_crasher", str(tmp_path / "storage")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    assert helper.stdin and helper.stdout
    try:
        for number in range(ROUNDS):
            helper.stdin.write(f"{SEED + number}\n")
            _one_life(helper.stdout, ledger, rng)
    finally:
        helper.stdin.close()
        helper.wait()
        helper.stdout.close()
    assert len(ledger.acked) > 3 * ROUNDS


def _one_life(lines: Any, ledger: _Ledger, rng: random.Random) -> None:
    """From its pid to its end; killed some time after it has begun to write."""
    ledger.found = {}
    os_pid, killer = 0, None
    for line in lines:
        kind, *words = json.loads(line)
        match kind:
            case "pid":
                os_pid = words[0]
            case "problems":
                ledger.problems = words[0]
            case "found":
                ledger.found[words[0], words[1]] = words[2]
            case "writing":
                ledger.check()
                killer = threading.Timer(rng.uniform(0.0, 0.06), os.kill, (os_pid, signal.SIGKILL))
                killer.start()
            case "try":
                ledger.tried.setdefault(words[0], set()).add(words[1])
            case "ack":
                ledger.acked.add((words[0], words[1]))
            case "ended":
                assert words[0] == signal.SIGKILL, "it ended by itself"
                break
    assert killer
    killer.join()


def test_acknowledged_writes_survive_a_killed_kernel(
    stopped: Machine, context: zmq.Context[Any]
) -> None:
    """20 kernels, two writers each; one file each, so the acknowledged versions are in order."""
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    sent: dict[str, list[bytes]] = {"/a": [], "/b": []}
    acked = {"/a": 0, "/b": 0}
    for _ in range(KERNEL_ROUNDS):
        os_pid = stopped.start("--model", "fake", "--storage-versions", "10000")
        _verify(stopped, context, sent, acked)
        writers = [
            threading.Thread(target=_write_on, args=(stopped, context, path, sent, acked))
            for path in sent
        ]
        for writer in writers:
            writer.start()
        time.sleep(rng.uniform(0.05, 0.3))  # the random moment, not a wait for something
        os.kill(os_pid, signal.SIGKILL)
        for writer in writers:
            writer.join()
    stopped.start("--model", "fake", "--storage-versions", "10000")
    _verify(stopped, context, sent, acked)
    assert sum(acked.values()) > KERNEL_ROUNDS


def _write_on(
    machine: Machine, context: zmq.Context[Any], path: str, sent: dict[str, list[bytes]],
    acked: dict[str, int],
) -> None:  # fmt: skip
    rng = random.Random(f"{path}{len(sent[path])}")
    try:
        with Connection(context, Credentials(machine.runtime)) as connection:
            while True:
                data = rng.randbytes(rng.choice((100, 4096, 90_000)))
                sent[path].append(data)
                info: s.FileInfo = connection.call("fs.write", s.FsWrite(path, data))
                acked[path] = info.version
    except AiosError:
        return  # the kernel has been killed


def _verify(
    machine: Machine, context: zmq.Context[Any], sent: dict[str, list[bytes]],
    acked: dict[str, int],
) -> None:  # fmt: skip
    with Connection(context, Credentials(machine.runtime)) as connection:
        for path, version in acked.items():
            if not version:
                continue
            history: s.FsVersions = connection.call("fs.history", s.FsPath(path))
            kept = [v.version for v in history.versions]
            assert kept[0] >= version, f"{path}: version {version} was acknowledged"
            assert kept == list(range(kept[0], 0, -1))
            known = {hashlib.sha256(data).digest() for data in sent[path]}
            for number in kept[:30]:
                got: s.FsData = connection.call("fs.read", s.FsRead(path, version=number))
                assert hashlib.sha256(got.data).digest() in known, f"{path}@{number} is torn"
