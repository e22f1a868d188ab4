"""Memory's part of the suite ``managers``: adding a note, searching 100,000, against bare SQLite.

``memory_add``: a lasting note through the kernel, against the same row with the same index of words
put into SQLite with the same durability, in this process; one of each in turn. Searches are on a
scope of 100,000 notes; their vectors are the fake model's, so that what is measured is the
search. The suite ``retrieval`` measures with the real model what is found.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import zmq

from aios.bench.rig.harness import Machine, kernel, progress
from aios.bench.rig.report import Report
from aios.bench.rig.worker import WORDS
from aios.kernel.memory.quota import Limits
from aios.kernel.memory.store import NoteStore
from aios.kernel.memory.vectors import pack
from aios.syscalls import paths
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.types.access import GrantRequest
from aios.syscalls.types.memory import AddRequest, SearchRequest

NOTES = 100_000
SCOPE = "shared:bench"
ADDS, SEARCHES = 300, 100
K = 5
_FLAGS = ("--model", "fake", "--embedder", "fake", "--notes-max", str(2 * NOTES))


def measure(report: Report, seed: int, repeats: int) -> None:
    """Adding and searching: arms ``memory`` and ``memory_bare``, ratio ``memory_add``."""
    rng = random.Random(seed)
    with data_folder() as data:
        progress(f"writing {NOTES:,} notes with vectors")
        notes = data / "aios" / "memory" / "notes.db"
        _fill(notes, rng)
        shutil.copyfile(notes, data / "bare.db")
        with kernel(_FLAGS, data=data) as machine, guest() as connection, _bare(data) as bare:
            allow_scope(machine)
            _search(connection, "keyword", rng, 3)
            _search(connection, "mixed", rng, 3)
            for repeat in range(repeats):
                progress(f"memory: repeat {repeat + 1}/{repeats}")
                ours, theirs = [], []
                for _ in range(ADDS):
                    text = _text(rng)
                    theirs.append(_timed(lambda text=text: bare(text)))  # type: ignore[misc]
                    body = AddRequest(text, SCOPE)
                    ours.append(_timed(lambda body=body: connection.call("memory.add", body)))  # type: ignore[misc]
                report.add("memory", **spread("add", ours))
                report.add("memory_bare", **spread("add", theirs))
                brief = [_timed(lambda: connection.call("memory.add", AddRequest(_text(rng))))
                         for _ in range(ADDS)]  # fmt: skip
                report.add("memory", **spread("add_session", brief))
                for mode in ("keyword", "semantic", "mixed"):
                    times = _search(connection, mode, rng, SEARCHES)
                    report.add("memory", **spread(f"search_{mode}", times))
    report.ratio("memory_add", "memory", "memory_bare", "add_p50_us")


def _fill(path: Path, rng: random.Random) -> None:
    """A store of many notes, each with the vector that the fake model gives it."""
    from aios.hw.embed.embedder import FakeModel

    store, model, limits = NoteStore(path, lasting=True), FakeModel(), Limits(NOTES, 1 << 30)
    for _ in range(0, NOTES, 2000):

        def some() -> None:
            for _ in range(2000):
                store.add(SCOPE, "note", _text(rng), limits)
            todo = store.unembedded([SCOPE], False, 2000)
            rows = model.embed([text.text for text in todo], "passage")
            store.adopt_model("fake")
            store.set_vectors(zip(todo, (pack(row.tobytes()) for row in rows), strict=True))

        store.doing(some)  # fmt: skip
    store.close()


def _text(rng: random.Random) -> str:
    """A note of about 12 words; some are common, most are not."""
    rare = (f"{rng.choice(WORDS)}{rng.randrange(2000)}" for _ in range(6))
    return " ".join([*rng.choices(WORDS, k=6), *rare])


@contextlib.contextmanager
def _bare(data: Path) -> Iterator[Callable[[str], None]]:
    """The library alone: one connection, the same tables as full, WAL, synchronous FULL."""
    path = data / "bare.db"
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL",
                   "cache_size = -16384"):  # fmt: skip
        db.execute(f"PRAGMA {pragma}")

    def add(text: str) -> None:
        db.execute("BEGIN IMMEDIATE")
        row = db.execute(
            "INSERT INTO notes(scope, kind, text, created, updated, sum) VALUES(1, 0, ?, ?, 0, 0)",
            (text, time.time()),
        ).lastrowid
        db.execute("INSERT INTO words(rowid, scope, text) VALUES(?, 1, ?)", (row, text))
        db.execute("COMMIT")

    try:
        yield add
    finally:
        db.close()


def _search(connection: Connection, mode: str, rng: random.Random, count: int) -> list[float]:
    times = []
    for _ in range(count):
        query = " ".join([*rng.choices(WORDS, k=2), f"{rng.choice(WORDS)}{rng.randrange(2000)}"])
        body = SearchRequest(query, K, (SCOPE,), mode)  # type: ignore[arg-type]
        times.append(_timed(lambda body=body: connection.call("memory.search", body)))  # type: ignore[misc]
    return times


# ------------------------------------------------------------------------------ the machine


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"{name}_p50_us": statistics.median(ordered) * 1e6,
            f"{name}_p99_us": ordered[int(0.99 * len(ordered))] * 1e6}  # fmt: skip


@contextlib.contextmanager
def data_folder() -> Iterator[Path]:
    """Notes of its own, on the disk that the user's are on."""
    with tempfile.TemporaryDirectory(prefix="aios-bench-data-", dir=paths.cache_dir()) as name:
        yield Path(name)


def allow_scope(machine: Machine) -> None:
    """Guests may use the scope that is measured."""
    machine.connection.call("access.grant", GrantRequest("guest", f"memory:{SCOPE}"))


@contextlib.contextmanager
def guest() -> Iterator[Connection]:
    context: zmq.Context[Any] = zmq.Context()
    try:
        with Connection(context, Credentials(Path(os.environ["AIOS_RUNTIME_DIR"]))) as connection:
            yield connection
    finally:
        context.term()
