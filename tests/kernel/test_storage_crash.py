"""kill -9 of the kernel during writes: what was acknowledged is there, and nothing is torn."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from aios import daemonctl
from aios.syscalls import memory_types as m
from aios.syscalls import storage_types as s
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import AiosError
from aios.syscalls.types import Empty
from tests.conftest import Machine, operator

KILLS = 200
SEED = 20261124
FLAGS = "--model fake --embedder off --storage-versions 10000"
SCOPE = "agent"
_LOOK_AT_ALL = 100
"""Kills between two looks at all that was ever written."""


class _Ledger:
    """What was asked for and what was acknowledged, of two files, a value and notes."""

    def __init__(self) -> None:
        self.sent: dict[str, list[bytes]] = {"/a": [], "/b": []}
        self.versions = {"/a": 0, "/b": 0}
        self.value_sent = self.value = 0
        self.notes_sent: set[str] = set()
        self.notes: dict[str, str] = {}

    def check(self, connection: Connection, *, everything: bool) -> None:
        """What there is now is what was acknowledged, and at most what was asked for."""
        for path, version in self.versions.items():
            self._check_file(connection, path, version, everything)
        if self.value:
            entry: s.KvEntry = connection.call("kv.get", s.KvKey("n"))
            assert self.value <= entry.value <= self.value_sent
        for id_, text in list(self.notes.items())[-5:]:
            note: m.Note = connection.call("memory.get", m.NoteRef(id_))
            assert note.text == text
        if everything:
            found = {note.id: note.text for note in _all_notes(connection)}
            assert self.notes.items() <= found.items()
            assert set(found.values()) <= self.notes_sent and len(set(found.values())) == len(found)

    def _check_file(
        self, connection: Connection, path: str, version: int, everything: bool
    ) -> None:
        if not version:
            return
        history: s.FsVersions = connection.call("fs.history", s.FsPath(path))
        kept = [each.version for each in history.versions]
        assert kept[0] >= version, f"{path}: version {version} was acknowledged"
        assert kept == list(range(kept[0], 0, -1))
        known = {hashlib.sha256(data).digest() for data in self.sent[path]}
        for number in kept if everything else kept[:3]:
            got: s.FsData = connection.call("fs.read", s.FsRead(path, version=number))
            assert hashlib.sha256(got.data).digest() in known, f"{path}@{number} is torn"


def _all_notes(connection: Connection) -> Iterator[m.Note]:
    after, more = None, True
    while more:
        page: m.NoteList = connection.call("memory.list", m.ListRequest(SCOPE, after, 1000))
        yield from page.notes
        after, more = page.notes[-1].id if page.notes else None, page.more


@pytest.mark.timeout(600)
def test_acknowledged_writes_survive_a_killed_kernel(
    stopped: Machine, context: zmq.Context[Any]
) -> None:
    """200 kernels, killed while files, a value and notes are written (seed printed)."""
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    ledger = _Ledger()
    with _forker(stopped) as start:
        for number in range(KILLS):
            os_pid = start()
            _look(stopped, context, ledger, everything=number % _LOOK_AT_ALL == 0)
            _write_until_killed(stopped, context, ledger, rng, os_pid)
        start()
        _look(stopped, context, ledger, everything=True)
    assert min(*ledger.versions.values(), ledger.value, len(ledger.notes)) > KILLS
    verified = stopped.aios("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


@contextmanager
def _forker(machine: Machine) -> Iterator[Callable[[], int]]:
    """Starts kernels on one machine's folders; each must have been ended before the next."""
    log = machine.folder / "kernels.log"
    with log.open("ab") as output, subprocess.Popen(
        [sys.executable, "-m", "tests.kernel.kernel_forker"], env=machine.env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, bufsize=1,
        cwd=Path(__file__).parent.parent.parent,
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
    machine: Machine, context: zmq.Context[Any], ledger: _Ledger, *, everything: bool
) -> None:
    with Connection(context, Credentials(machine.runtime)) as connection:
        ledger.check(connection, everything=everything)
    if everything:
        with operator(machine) as connection:
            report: s.StorageReport = connection.call("storage.check", s.StorageCheck())
            assert report.problems == []
            notes: m.MemoryReport = connection.call("memory.check", Empty())
            assert notes.damaged == [] and notes.problems == []


def _write_until_killed(
    machine: Machine, context: zmq.Context[Any], ledger: _Ledger, rng: random.Random, os_pid: int
) -> None:
    begun = threading.Semaphore(0)
    jobs = [_files("/a", ledger), _files("/b", ledger), _values(ledger), _notes(ledger)]
    writers = [
        threading.Thread(target=_write_on, args=(machine, context, job, begun)) for job in jobs
    ]
    for writer in writers:
        writer.start()
    for _ in writers:
        assert begun.acquire(timeout=30)
    time.sleep(rng.uniform(0.0, 0.06))  # the random moment, not a wait for something
    os.kill(os_pid, signal.SIGKILL)
    for writer in writers:
        writer.join()


def _write_on(
    machine: Machine, context: zmq.Context[Any], job: Callable[[Connection], None],
    begun: threading.Semaphore,
) -> None:  # fmt: skip
    try:
        with Connection(context, Credentials(machine.runtime)) as connection:
            job(connection)
            begun.release()
            while True:
                job(connection)
    except AiosError:
        begun.release()  # the kernel has been killed


def _files(path: str, ledger: _Ledger) -> Callable[[Connection], None]:
    rng = random.Random(f"{path}{len(ledger.sent[path])}")

    def write(connection: Connection) -> None:
        data = rng.randbytes(rng.choice((100, 100, 4096, 4096, 4096, 90_000)))
        ledger.sent[path].append(data)
        info: s.FileInfo = connection.call("fs.write", s.FsWrite(path, data))
        ledger.versions[path] = info.version

    return write


def _values(ledger: _Ledger) -> Callable[[Connection], None]:
    def set_next(connection: Connection) -> None:
        ledger.value_sent += 1
        connection.call("kv.set", s.KvSet("n", ledger.value_sent))
        ledger.value = ledger.value_sent

    return set_next


def _notes(ledger: _Ledger) -> Callable[[Connection], None]:
    def add(connection: Connection) -> None:
        text = f"note number {len(ledger.notes_sent)}"
        ledger.notes_sent.add(text)
        note: m.Note = connection.call("memory.add", m.AddRequest(text, SCOPE))
        ledger.notes[note.id] = text

    return add
