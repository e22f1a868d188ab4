"""Memory part of the suite ``managers``: add a note, search 100,000, against bare SQLite.

``memory_add``: a lasting note through the kernel, against the same row and full-text index in
SQLite with the same durability, in this process; the two take turns. Searches cover a scope of
100,000 notes with vectors of the fake model, so they measure the search alone. The suite
``retrieval`` measures what the real model finds.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from aios.bench.rig.harness import Machine, guest, kernel, progress
from aios.bench.rig.report import Report, percentiles, timed
from aios.bench.rig.worker import WORDS
from aios.kernel.memory.quota import Limits
from aios.kernel.memory.store import NoteStore
from aios.kernel.retrieval.vectors import pack
from aios.syscalls import paths
from aios.syscalls.client import Connection
from aios.syscalls.types.access import GrantRequest
from aios.syscalls.types.memory import AddRequest, SearchRequest

NOTES = 100_000
SCOPE = "shared:bench"
ADDS, SEARCHES = 300, 100
K = 5
_FLAGS = ("--model", "fake", "--embedder", "fake", "--notes-max", str(2 * NOTES))


def measure(report: Report, seed: int, repeats: int) -> None:
    """Measure adding and searching: arms ``memory`` and ``memory_bare``, ratio ``memory_add``."""
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
                    theirs.append(timed(lambda text=text: bare(text)))  # type: ignore[misc]
                    body = AddRequest(text, SCOPE)
                    ours.append(timed(lambda body=body: connection.call("memory.add", body)))  # type: ignore[misc]
                report.add("memory", **percentiles(ours, "add_"))
                report.add("memory_bare", **percentiles(theirs, "add_"))
                brief = [timed(lambda: connection.call("memory.add", AddRequest(_text(rng))))
                         for _ in range(ADDS)]  # fmt: skip
                report.add("memory", **percentiles(brief, "add_session_"))
                for mode in ("keyword", "semantic", "mixed"):
                    times = _search(connection, mode, rng, SEARCHES)
                    report.add("memory", **percentiles(times, f"search_{mode}_"))
    report.ratio("memory_add", "memory", "memory_bare", "add_p50_us")


def _fill(path: Path, rng: random.Random) -> None:
    """Write a store of NOTES notes with vectors of the fake model."""
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
    """Return a note of 12 words, half of them common and half rare."""
    rare = (f"{rng.choice(WORDS)}{rng.randrange(2000)}" for _ in range(6))
    return " ".join([*rng.choices(WORDS, k=6), *rare])


@contextlib.contextmanager
def _bare(data: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that adds a note by SQLite alone, to tables as full and as durable."""
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
        times.append(timed(lambda body=body: connection.call("memory.search", body)))  # type: ignore[misc]
    return times


@contextlib.contextmanager
def data_folder() -> Iterator[Path]:
    """Make a temporary data folder on the disk that holds the user's cache."""
    with tempfile.TemporaryDirectory(prefix="aios-bench-data-", dir=paths.cache_dir()) as name:
        yield Path(name)


def allow_scope(machine: Machine) -> None:
    """Grant guests the scope that is measured."""
    machine.connection.call("access.grant", GrantRequest("guest", f"memory:{SCOPE}"))
