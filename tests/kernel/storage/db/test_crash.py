"""kill -9 of the kernel during writes: acknowledged changes survive, and none is torn."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from aios.cli import daemonctl
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import KernelUnavailable
from aios.syscalls.types import memory as m
from aios.syscalls.types import storage as s
from aios.syscalls.types.common import Empty
from tests.conftest import Machine, operator
from tests.waiting import deadline_s, wait_for_end

from .crash_writers import Appends, Notes, Tree, Values, Versions, Writer

KILLS = 200
SEED = 20261124
FLAGS = "--model fake --embedder off --storage-versions 10000"
CALLS = (
    "fs.write", "fs.append", "fs.move", "fs.delete", "kv.set", "kv.delete", "memory.add",
    "memory.update", "memory.remove",
)  # fmt: skip
_LOOK_AT_ALL = 100
"""Kills between two checks of everything ever written."""
_STEPS = (1, 6)
"""Range of changes that each writer makes before a kill. A time instead would mean fewer changes on
a slower machine, and one count for all writers fewer changes of the slowest."""


@pytest.mark.timeout(600)
def test_acknowledged_writes_survive_a_killed_kernel(
    stopped: Machine, context: zmq.Context[Any]
) -> None:
    """200 kernels, killed while files, values and notes are changed (seed printed)."""
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    seeds = (random.Random(rng.random()) for _ in range(6))
    writers = [
        Versions(next(seeds), "/a"), Versions(next(seeds), "/b"), Appends(next(seeds)),
        Tree(next(seeds)), Values(next(seeds)), Notes(next(seeds)),
    ]  # fmt: skip
    with _forker(stopped) as start:
        for number in range(KILLS):
            os_pid = start()
            _look(stopped, context, writers, everything=number % _LOOK_AT_ALL == 0)
            _write_until_killed(stopped, context, writers, rng, os_pid)
        start()
        _look(stopped, context, writers, everything=True)
    done = sum((writer.done for writer in writers), Counter[str]())
    print(done, *(writer.undecided for writer in writers))
    for call in CALLS:
        assert done[call] > KILLS // 4, done
    verified = stopped.aios("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_call_that_failed_is_not_done_by_the_next_kernel(
    stopped: Machine, context: zmq.Context[Any]
) -> None:
    with _forker(stopped) as start:
        os_pid = start()
        with Connection(context, Credentials(stopped.runtime)) as before:
            before.call("kv.set", s.KvSet("n", 1))
            os.kill(os_pid, signal.SIGKILL)
            wait_for_end(os_pid)
            with pytest.raises(KernelUnavailable, match="has ended"):
                before.call("kv.set", s.KvSet("n", 2))
            start()
            for _ in range(2):
                with pytest.raises(KernelUnavailable, match="has ended"):
                    before.call("kv.set", s.KvSet("n", 3))
                time.sleep(0.3)  # long enough for a socket to find the new kernel
            with Connection(context, Credentials(stopped.runtime)) as after:
                assert after.call("kv.get", s.KvKey("n")).value == 1


@contextmanager
def _forker(machine: Machine) -> Iterator[Callable[[], int]]:
    """Starts kernels on one machine's folders; each must have been ended before the next."""
    log = machine.folder / "kernels.log"
    with log.open("ab") as output, subprocess.Popen(
        [sys.executable, "-m", "tests.kernel.storage.db.kernel_forker"], env=machine.env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, bufsize=1,
        cwd=Path(__file__).parents[4],
    ) as helper:  # fmt: skip
        stdin, stdout = helper.stdin, helper.stdout
        assert stdin and stdout

        def start() -> int:
            stdin.write(f"{FLAGS}\n")
            said = stdout.readline(), stdout.readline()
            assert "READY\n" in said, log.read_text()[-2000:]
            return int(next(word for word in said if word != "READY\n"))

        try:
            yield start
        finally:
            daemonctl.stop(machine.runtime)
            stdin.close()


def _look(
    machine: Machine, context: zmq.Context[Any], writers: Sequence[Writer], *, everything: bool
) -> None:
    with Connection(context, Credentials(machine.runtime)) as connection:
        for writer in writers:
            writer.check(connection)
            if everything:
                writer.check_all(connection)
    if everything:
        with operator(machine) as connection:
            report: s.StorageReport = connection.call("storage.check", s.StorageCheck())
            assert report.problems == []
            notes: m.MemoryReport = connection.call("memory.check", Empty())
            assert notes.damaged == [] and notes.problems == []


def _write_until_killed(
    machine: Machine, context: zmq.Context[Any], writers: Sequence[Writer], rng: random.Random,
    os_pid: int,
) -> None:  # fmt: skip
    wrong: list[BaseException] = []
    steps = [threading.Semaphore(0) for _ in writers]
    threads = [
        threading.Thread(target=_write_on, args=(machine, context, writer, made, wrong))
        for writer, made in zip(writers, steps, strict=True)
    ]
    for thread in threads:
        thread.start()
    for made in steps:
        for _ in range(rng.randint(*_STEPS)):
            assert made.acquire(timeout=deadline_s()), wrong
    time.sleep(rng.uniform(0.0, 0.005))  # the random moment, not a wait for something
    os.kill(os_pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


def _write_on(
    machine: Machine, context: zmq.Context[Any], writer: Writer, made: threading.Semaphore,
    wrong: list[BaseException],
) -> None:  # fmt: skip
    try:
        with Connection(context, Credentials(machine.runtime)) as connection:
            while True:
                writer.step(connection)
                made.release()
    except KernelUnavailable:
        pass  # it has been killed
    except BaseException as error:
        wrong.append(error)
