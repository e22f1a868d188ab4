"""Damage of the database: it is found, named, contained, and repaired."""

from __future__ import annotations

import random
import sqlite3
import subprocess
from pathlib import Path

import pytest

from aios.kernel.storage.db import commit, damage
from aios.kernel.storage.db.schema import Lock
from aios.kernel.storage.repair import backup
from aios.syscalls.errors import (
    AiosError,
    InvalidArgument,
    NotFound,
    StorageDamaged,
)
from aios.syscalls.types import storage as s
from tests.kernel.storage.rig import BIG, change, flip, rig


def _refused(folder: Path) -> AiosError:
    with pytest.raises(StorageDamaged) as error, rig(folder) as store:
        if store.storage.failure:
            raise store.storage.failure
    return error.value


def test_a_damaged_database_is_named_at_start_and_a_backup_restores_it(tmp_path: Path) -> None:
    folder, saved = tmp_path / "s", tmp_path / "saved"
    with rig(folder) as store:
        for number in range(50):
            store.write("bob", f"f{number}", f"content {number}".encode() * 30)
        store.write("bob", "big", BIG)
        reply = store.backup(saved)
        assert reply.files == 51 and reply.size_bytes > len(BIG)
        with pytest.raises(InvalidArgument, match="exists"):
            store.backup(saved)
    flip(folder / "meta.db", 3)
    assert "aios storage restore" in _refused(folder).hint
    lock = Lock(folder)
    old = backup.restore(saved, folder)
    lock.close()
    assert (old / "meta.db").exists()
    with rig(folder) as store:
        assert store.read("bob", "big") == BIG and store.read("bob", "f7")[:9] == b"content 7"
        assert store.check().problems == []


def test_a_database_is_checked_unless_closed_cleanly_and_untouched_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def looked(connection: sqlite3.Connection) -> damage.Damage:
        nonlocal looks
        looks += 1
        return damage.find_damage(connection)

    monkeypatch.setattr(commit, "find_damage", looked)

    def start() -> int:
        nonlocal looks
        looks = 0
        with rig(tmp_path) as store:
            store.write("bob", "a", b"one")
            assert not (tmp_path / "meta.clean").exists()  # a kill leaves none
        return looks

    assert start() == 1  # the first time there is no mark
    assert start() == 0
    kept = (tmp_path / "meta.db").read_bytes()
    (tmp_path / "meta.db").write_bytes(kept)
    assert start() == 1
    (tmp_path / "meta.clean").unlink()
    assert start() == 1
    (tmp_path / "meta.db-wal").write_bytes(b"")
    assert start() == 1
    (tmp_path / "meta.clean").write_text("\0 nonsense")
    assert start() == 1 and start() == 0


def test_the_next_start_looks_for_damage_that_was_met(tmp_path: Path) -> None:
    with rig(tmp_path) as store:
        store.write("bob", "a", b"one")
        store.write("bob", "b", b"two")
    change(tmp_path, "UPDATE version SET sum = sum + 1 WHERE file = 1")
    for _ in range(3):
        with rig(tmp_path) as store:
            assert len(store.storage.damage.lines) == 1
            assert store.read("bob", "b") == b"two"


def test_damaged_rows_fail_only_the_calls_that_touch_them(tmp_path: Path) -> None:
    with rig(tmp_path) as store:
        for name in ("a", "b", "c", "d"):
            store.write("bob", name, b"one")
            store.write("bob", name, b"two")
        store.share("bob", "a", "eve")
        store.share("bob", "b", "eve")
        store.mount("bob", "m", tmp_path)
        store.mount("bob", "n", tmp_path)
        for key in ("k", "l"):
            store.set_value("bob", key, b"\1")
    change(
        tmp_path,
        "UPDATE file SET size = 9 WHERE name = 'b'",
        "UPDATE version SET size = 5 WHERE file = (SELECT id FROM file WHERE name = 'c')"
        " AND version = 1",
        "UPDATE extent SET chunk = 1 WHERE file = (SELECT id FROM file WHERE name = 'd')"
        " AND first = 2",
        "UPDATE share SET rights = 'write' WHERE path = 'b'",
        "UPDATE mount SET writable = 1 WHERE name = 'm'",
        "UPDATE kv SET value = x'02' WHERE key = 'k'",
    )
    with rig(tmp_path) as store:
        storage = store.storage
        assert len(storage.damage.lines) == 6 and "6 findings" in storage.warnings()[0]
        status: s.StorageStatus = store.ask(store.chores.status())
        assert status.state == "damaged" and len(status.damage) == 6
        assert {"b", "c", "d"} <= {
            word.strip("'")
            for line in store.check().problems
            for word in line.replace("/", " ").replace(",", " ").split()
        }

        assert store.read("bob", "a") == b"two" and store.read("bob", "c") == b"two"
        assert store.write("bob", "a", b"three").version == 3
        with pytest.raises(StorageDamaged, match="/bob/b") as error:
            store.read("bob", "b")
        assert "rollback" in error.value.hint and "aios storage repair" in error.value.hint
        with pytest.raises(StorageDamaged, match="/bob/b"):
            store.write("bob", "b", b"three")
        assert store.names("bob") == ["/a", "/b", "/c", "/d"]
        assert [v.version for v in store.history("bob", "b")] == [2, 1]
        assert store.read("bob", "b", version=1) == b"one"
        assert store.rollback("bob", "b", 2).version == 3 and store.read("bob", "b") == b"two"

        with pytest.raises(StorageDamaged, match="version 1 of /c"):
            store.read("bob", "c", version=1)
        assert [v.damaged for v in store.history("bob", "c")] == [False, True]
        with pytest.raises(StorageDamaged, match="/d"):
            store.read("bob", "d")
        with pytest.raises(StorageDamaged, match="/d"):
            store.rollback("bob", "d", 2)
        assert store.rollback("bob", "d", 1).version == 3
        for _ in range(20):  # the damaged version is pruned, without content of others
            store.write("bob", "d", b"more")
        assert store.read("bob", "a", version=1) == b"one"

        assert store.read("eve", "/shared/bob/a") == b"three"
        with pytest.raises(StorageDamaged, match="share of /b"):
            store.read("eve", "/shared/bob/b")
        assert store.names("bob", "/mnt/n")
        with pytest.raises(StorageDamaged, match="mount m of bob"):
            store.names("bob", "/mnt/m")
        with pytest.raises(StorageDamaged, match="'k'") as error:
            store.value("bob", "k")
        assert "set it again" in error.value.hint
        store.set_value("bob", "k", b"\3")
        assert store.value("bob", "k").value == 3
        assert store.value("bob", "l").value == 1

        assert store.check(repair=True).mended and store.check().problems == []
        assert store.storage.warnings() == []
        assert store.read("bob", "a") == b"three" and store.read("bob", "d") == b"more"


def test_a_damaged_index_is_rebuilt(tmp_path: Path) -> None:
    """Otherwise a file would not be found though it exists."""
    with rig(tmp_path) as store:
        store.write("bob", "a", b"one")
    change(
        tmp_path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'live = 1', 'live = 7')"
        " WHERE name = 'file_live'",
    )
    change(tmp_path, "REINDEX")
    change(
        tmp_path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'live = 7', 'live = 1')"
        " WHERE name = 'file_live'",
    )
    with rig(tmp_path) as store:
        assert store.read("bob", "a") == b"one" and store.storage.warnings() == []


def test_random_damage_never_shows_as_content(tmp_path: Path) -> None:
    """Change bytes anywhere in the database (seed printed): a read returns what was written or
    raises a typed error, most reads succeed, and later writes are kept."""
    seed = 5
    print(f"seed {seed}")
    rng = random.Random(seed)
    original = tmp_path / "original"
    names = [f"f{number}" for number in range(60)]
    with rig(original) as store:
        for name in names:
            store.write("bob", name, name.encode() * 4000)
            store.write("bob", name, name.encode() * 5000)
    used = opened = changed = whole = 0
    for round_ in range(12):
        folder = tmp_path / str(round_)
        subprocess.run(["cp", "-r", str(original), str(folder)], check=True)
        size = (folder / "meta.db").stat().st_size
        for _ in range(8):
            flip(folder / "meta.db", rng.randrange(100, size))
        with rig(folder) as store:
            used += 1
            if store.storage.failure:
                continue
            opened += 1
            for name in names:
                try:
                    assert store.read("bob", name) == name.encode() * 5000
                    whole += 1
                except (StorageDamaged, NotFound):
                    continue
            try:
                for name in names[::7]:
                    store.write("bob", f"new-{name}", b"new")
                    assert store.read("bob", f"new-{name}") == b"new"
                changed += 1
            except StorageDamaged:
                pass
            store.check()
    assert opened >= used - 2 and changed >= used // 2 and whole > 0.8 * opened * len(names)


def test_damaged_content_is_never_returned_and_repair_goes_back(tmp_path: Path) -> None:
    with rig(tmp_path) as store:
        store.write("bob", "a", BIG)
        store.write("bob", "a", BIG[::-1])
        store.write("bob", "small", b"fine")
        blob = max((tmp_path / "blobs").rglob("*-*"), key=lambda path: path.stat().st_mtime_ns)
        flip(blob, 5000)
        with pytest.raises(StorageDamaged, match="/a"):
            store.read("bob", "a")
        assert store.read("bob", "a", version=1) == BIG
        assert any("version 2" in problem for problem in store.check().problems)
        report = store.check(repair=True)
        assert any("went back to version 1" in line for line in report.mended)
        assert store.read("bob", "a") == BIG and store.read("bob", "small") == b"fine"
        assert store.check().problems == []
        next((tmp_path / "blobs").rglob("*-*")).unlink()
        with pytest.raises(StorageDamaged, match="missing"):
            store.read("bob", "a")
        assert any("is gone" in line for line in store.check(repair=True).mended)
        assert store.check().problems == [] and store.names("bob") == ["/small"]
