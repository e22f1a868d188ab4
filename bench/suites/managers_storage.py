"""Storage part of the suite ``managers``: files of 4 KB and 10 MB, against the bare library.

``ours`` is the whole system call, through both sockets and the commit. The bare arms keep the same
promise and do nothing else: an atomic durable file (write, fsync, rename, fsync of the folder), and
a row in SQLite with synchronous=FULL. The arms take turns on the same file system.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from aios.syscalls.client import Connection
from aios.syscalls.types.storage import (
    MAX_PART_BYTES,
    FsBegin,
    FsData,
    FsEnd,
    FsPart,
    FsRead,
    FsUpload,
    FsWrite,
)

SMALL_BYTES = 4096
LARGE_BYTES = 10_000_000
_NAMES = 10
"""Number of files written in turn, so that there are versions to keep and to prune."""


def measure(
    connection: Connection, folder: Path, seed: int, small: int = 500, large: int = 10
) -> dict[str, list[float]]:
    """Return the seconds of each operation by arm: {ours,file,sqlite}_{write,read}_{4k,10m}.

    ``connection``: of an agent or guest. ``folder``: where the bare arms write, on the file system
    that holds the kernel's data.
    """
    rng = random.Random(seed)
    times: dict[str, list[float]] = {}
    for size, label, rounds in ((SMALL_BYTES, "4k", small), (LARGE_BYTES, "10m", large)):
        place = folder / label
        place.mkdir(parents=True)
        with closing(_database(place / "bare.db")) as database:
            arms = _arms(connection, place, database, label)
            for number in range(rounds):
                data, name = rng.randbytes(size), f"f{number % _NAMES}"
                for arm, act in arms.items():
                    start = time.perf_counter()
                    act(name, data)
                    times.setdefault(f"{arm}_{label}", []).append(time.perf_counter() - start)
    return times


def _arms(
    connection: Connection, folder: Path, database: sqlite3.Connection, label: str
) -> dict[str, Callable[[str, bytes], None]]:
    def read_file(name: str, data: bytes) -> None:
        assert (folder / name).read_bytes() == data

    def write_row(name: str, data: bytes) -> None:
        database.execute("INSERT OR REPLACE INTO file VALUES (?, ?)", (name, data))

    def read_row(name: str, data: bytes) -> None:
        query = "SELECT data FROM file WHERE name = ?"
        assert database.execute(query, (name,)).fetchone()[0] == data

    return {
        "ours_write": lambda name, data: _write(connection, f"/{label}/{name}", data),
        "file_write": lambda name, data: _write_file(folder, name, data),
        "sqlite_write": write_row,
        "ours_read": lambda name, data: _read(connection, f"/{label}/{name}", data),
        "file_read": read_file,
        "sqlite_read": read_row,
    }


def _write(connection: Connection, path: str, data: bytes) -> None:
    if len(data) <= MAX_PART_BYTES:
        connection.call("fs.write", FsWrite(path, data))
        return
    upload: FsUpload = connection.call("fs.begin", FsBegin(path))
    for start in range(0, len(data), MAX_PART_BYTES):
        part = data[start : start + MAX_PART_BYTES]
        connection.call("fs.part", FsPart(upload.upload, part))
    connection.call("fs.end", FsEnd(upload.upload))


def _read(connection: Connection, path: str, data: bytes) -> None:
    got = b""
    while len(got) < len(data):
        piece: FsData = connection.call("fs.read", FsRead(path, len(got)))
        got += piece.data
    assert got == data


def _write_file(folder: Path, name: str, data: bytes) -> None:
    part = folder / f"{name}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    part.rename(folder / name)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _database(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE file(name TEXT PRIMARY KEY, data BLOB)")
    return database
