"""Commits: failing disks, leftovers of killed kernels, the log, and the lock."""

from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from aios.kernel.storage.db import wal
from aios.kernel.storage.db.damage import Damage
from aios.kernel.storage.db.schema import Lock
from aios.syscalls.errors import (
    DiskFull,
    StorageDamaged,
    StorageUnavailable,
)
from tests.kernel.storage.rig import BIG, Rig, change, flip, rig
from tests.waiting import turn_until


def _blobs(folder: Path) -> set[Path]:
    return {path for path in (folder / "blobs").rglob("*") if path.is_file()}


def test_writes_that_damage_refuses_leave_no_blobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(tmp_path) as store:
        store.write("bob", "a", b"one")
    change(tmp_path, "UPDATE file SET size = 9 WHERE name = 'a'")
    with rig(tmp_path) as store, pytest.raises(StorageDamaged):
        store.write("bob", "a", BIG)
    assert not _blobs(tmp_path)
    monkeypatch.setattr(
        "aios.kernel.storage.db.commit.find_damage", lambda _: Damage(["twice used"], [])
    )
    for _ in range(2):  # the second start has the same number
        with rig(tmp_path) as store:
            with pytest.raises(StorageDamaged, match="twice used"):
                store.write("bob", "b", BIG)
            with pytest.raises(StorageDamaged, match="twice used"):
                store.begin_upload("bob", "b", "3")
            before = len(_blobs(tmp_path))
            pieces = store.storage.blobs.cut(BIG)  # of a file for a mount
            assert len(_blobs(tmp_path)) == before + len(pieces)


class _Disk:
    """A connection to a disk that fails at one statement."""

    def __init__(self, connection: sqlite3.Connection, failing: str) -> None:
        self._connection, self._failing = connection, failing

    def execute(self, statement: str, *more: Any) -> Any:
        if statement == self._failing:
            raise _unreadable()
        return self._connection.execute(statement, *more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _unreadable() -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    return error


def test_a_failed_read_fails_its_caller_and_a_failed_commit_all_changes(
    tmp_path: Path,
) -> None:
    def read(_: sqlite3.Connection) -> None:
        raise _unreadable()

    with rig(tmp_path) as store:
        storage, committer = store.storage, store.storage.committer
        with pytest.raises(StorageUnavailable, match="I/O"):
            store.ask(committer.read(read))
        hold, held = threading.Event(), threading.Event()

        def wait(_: sqlite3.Connection) -> None:
            held.set()
            hold.wait()

        committer.read(wait)
        held.wait()
        good = store.begin(storage.set_value("bob", "k", b"\1", None))  # these share a commit
        bad = store.begin(committer.change(read))
        hold.set()
        turn_until(store.loop, lambda: bad, "both outcomes")
        assert good[0].error is None and isinstance(bad[0].error, StorageUnavailable)
        assert storage.failure is None and not _blobs(tmp_path)
        assert committer._connection
        committer._connection = _Disk(committer._connection, "COMMIT")  # type: ignore[assignment]
        with pytest.raises(StorageUnavailable):
            store.write("bob", "a", BIG)
        assert storage.failure and _blobs(tmp_path), "the disk may have it"
        with pytest.raises(StorageUnavailable):
            store.write("bob", "b", b"two")


def test_a_flipped_bit_in_the_log_is_not_taken_for_its_end(tmp_path: Path) -> None:
    """SQLite would silently drop all commits behind it."""
    with rig(tmp_path) as store:
        for number in range(20):
            store.write("bob", f"f{number}", bytes([number]) * 3000)
        log = (tmp_path / "meta.db-wal").read_bytes()
    copy = tmp_path / "log"
    copy.write_bytes(log)
    assert wal.find_damage(copy) == ""
    copy.write_bytes(log[: len(log) * 2 // 3])
    assert wal.find_damage(copy) == "", "a torn end is no damage"
    for offset in (40, 32 + 24 + 100, len(log) // 2):
        copy.write_bytes(log)
        flip(copy, offset)
        assert "commits behind are lost" in wal.find_damage(copy)
    copy.write_bytes(log)
    flip(copy, 17)
    assert "header" in wal.find_damage(copy)
    assert struct.unpack(">I", log[:4])[0] & ~1 == 0x377F0682


def test_blobs_that_a_killed_kernel_left_are_deleted(tmp_path: Path) -> None:
    with rig(tmp_path) as store:
        store.write("bob", "a", BIG)
    left = tmp_path / "blobs" / "1" / "0" / "ff-left"
    left.write_bytes(b"nobody's")
    with rig(tmp_path) as store:
        for _ in range(5):
            store.write("bob", "b", b"")
            store.check()
        assert not left.exists() and store.read("bob", "a") == BIG


def test_two_kernels_never_share_a_folder(store: Rig) -> None:
    with pytest.raises(StorageUnavailable, match=f"host process {os.getpid()}"):
        Lock(store.storage.folder)


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_full_disk_refuses_changes_and_reads_go_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)]).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        with rig(disk / "s") as store:
            store.write("bob", "a", b"kept")
            with pytest.raises(DiskFull):
                for number in range(20):
                    store.write("bob", f"big{number}", BIG)
            (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * 4096 - 8192))
            with pytest.raises(DiskFull, match="nothing was changed"):
                for number in range(200):
                    store.write("bob", f"small{number}", BIG[number * 9000 : (number + 1) * 9000])
            assert store.read("bob", "a") == b"kept"
            (disk / "filler").unlink()
            store.write("bob", "a", b"again")
            assert store.check().problems == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
