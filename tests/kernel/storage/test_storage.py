"""Storage without a kernel: versions, quotas, shares, search, damage and backups."""

from __future__ import annotations

import os
import random
import sqlite3
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aios.kernel.loop.task import Outcome
from aios.kernel.storage.db import commit, damage, wal
from aios.kernel.storage.db.damage import Damage
from aios.kernel.storage.db.schema import Lock
from aios.kernel.storage.files.paths import resolve
from aios.kernel.storage.repair import backup
from aios.syscalls.errors import (
    AiosError,
    DiskFull,
    IllegalState,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    StorageDamaged,
    StorageUnavailable,
    VersionConflict,
)
from aios.syscalls.types import storage as s

from .rig import Rig, rig

BIG = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path / "s") as made:
        yield made
        assert made.check().problems == []


# ---------------------------------------------------------------------------- files, versions


def test_content_of_every_size_comes_back(store: Rig) -> None:
    for size in (0, 1, 4096, 65536, 65537, 1 << 20, 3_000_000):
        store.write("bob", f"/d/{size}", BIG[:size])
        assert store.read("bob", f"/d/{size}") == BIG[:size]
    assert (
        store.read("bob", "/d/3000000", offset=1_048_000, length=2000) == BIG[1_048_000:1_050_000]
    )
    assert store.read("bob", "/d/1", offset=5) == b""
    assert store.names("bob") == ["/d"] and len(store.names("bob", "/d")) == 7


def test_appends_make_versions_and_old_ones_stay_as_they_were(store: Rig) -> None:
    whole = b""
    kept = {}
    rng = random.Random(7)
    for number in range(1, 15):
        part = rng.randbytes(rng.choice((0, 10, 5000, 20_000, 100_000)))
        store.write("bob", "log", part, append=True)
        whole += part
        kept[number] = whole
    for number, content in kept.items():
        assert store.read("bob", "log", version=number) == content
    assert [v.version for v in store.history("bob", "log")] == list(range(14, 0, -1))


def test_only_so_many_versions_are_kept(tmp_path: Path) -> None:
    with rig(tmp_path, keep=3) as store:
        for number in range(10):
            store.write("bob", "a", BIG[number * 70_000 : (number + 1) * 70_000])
        assert [v.version for v in store.history("bob", "a")] == [10, 9, 8]
        with pytest.raises(NotFound, match="no version 7"):
            store.read("bob", "a", version=7)
        assert store.check().problems == []
        assert store.check().blobs == 3


def test_a_deleted_file_comes_back_until_it_is_pruned(store: Rig) -> None:
    store.write("bob", "d/a", b"one")
    store.write("bob", "d/a", b"two")
    store.delete("bob", "d", recursive=True)
    assert store.names("bob") == []
    with pytest.raises(NotFound, match="no file"):
        store.read("bob", "d/a")
    assert store.read("bob", "d/a", version=2) == b"two"
    assert store.rollback("bob", "d/a", 1).version == 4
    assert store.read("bob", "d/a") == b"one"
    store.delete("bob", "d/a")
    store.prune("bob")
    with pytest.raises(NotFound, match="no old version"):
        store.history("bob", "d/a")
    store.delete("bob", "d")
    assert store.usage("bob").used_bytes == 0


def test_move_takes_versions_along(store: Rig) -> None:
    store.write("bob", "a/x", b"1")
    store.write("bob", "a/x", b"2")
    store.write("bob", "a/b/y", b"3")
    store.move("bob", "a", "c/d")
    assert store.read("bob", "c/d/x", version=1) == b"1"
    assert store.read("bob", "c/d/b/y") == b"3"
    for target in ("c/d/b", "c", "c/d/x"):
        with pytest.raises((InvalidArgument, IllegalState)):
            store.move("bob", "c", target)


def test_expected_versions_make_two_writers_safe(store: Rig) -> None:
    store.write("bob", "n", b"0", expect=0)
    with pytest.raises(VersionConflict, match="version 1, not 0"):
        store.write("bob", "n", b"1", expect=0)
    store.share("bob", "n", "eve", "write")
    lost = 0
    for number in range(100):
        for agent, path in (("bob", "/n"), ("eve", "/shared/bob/n")):
            seen = store.stat(agent, path).version
            store.write(agent, path, str(number).encode(), expect=seen)
            try:
                store.write(agent, path, b"late", expect=seen)
            except VersionConflict:
                lost += 1
    assert lost == 200 and store.stat("bob", "n").version == 201


def test_what_is_a_folder_is_no_file(store: Rig) -> None:
    store.write("bob", "f", b"")
    store.mkdir("bob", "d")
    store.mkdir("bob", "d")
    for action in (
        lambda: store.write("bob", "d", b""), lambda: store.write("bob", "f/x", b""),
        lambda: store.read("bob", "d"), lambda: store.mkdir("bob", "f"),
        lambda: store.names("bob", "f"), lambda: store.history("bob", "d"),
    ):  # fmt: skip
        with pytest.raises(IllegalState):
            action()


# ---------------------------------------------------------------------------- quotas


def test_a_full_home_says_both_numbers_and_what_to_prune(tmp_path: Path) -> None:
    with rig(tmp_path, quota=100_000) as store:
        store.write("bob", "a", bytes(40_000))
        store.write("bob", "a", BIG[:40_000])
        with pytest.raises(QuotaExceeded, match="120,768 bytes; its quota is 100,000") as error:
            store.write("bob", "a", BIG[:40_000])
        assert "40,256 bytes are in old versions" in error.value.hint
        assert store.read("bob", "a") == BIG[:40_000]
        store.write("eve", "a", bytes(90_000))
        assert store.prune("bob").freed_bytes == 40_256
        store.write("bob", "b", BIG[:40_000])
        with pytest.raises(QuotaExceeded):
            store.write("bob", "large", BIG)
        assert store.check().problems == []
        assert list((tmp_path / "blobs").rglob("*-*")) != [], "eve's"


def test_usage_is_what_the_rows_say_after_anything(tmp_path: Path) -> None:
    """2,000 random operations (seed printed); check recounts everything."""
    seed = 11
    print(f"seed {seed}")
    rng = random.Random(seed)
    with rig(tmp_path, quota=3_000_000, keep=4) as store:
        names = ["a", "b", "d/a", "d/e/a", "d/e", "d"]
        done = 0
        for number in range(2000):
            path, other = rng.choice(names), rng.choice(names)
            data = rng.randbytes(rng.choice((0, 100, 5000, 100_000)))
            actions: list[Callable[[], object]] = [
                lambda p=path, d=data: store.write("bob", p, d),  # type: ignore[misc]
                lambda p=path, d=data: store.write("bob", p, d, append=True),  # type: ignore[misc]
                lambda p=path: store.delete("bob", p, recursive=rng.random() < 0.5),  # type: ignore[misc]
                lambda p=path, o=other: store.move("bob", p, o),  # type: ignore[misc]
                lambda p=path: store.rollback("bob", p, rng.randint(1, 30)),  # type: ignore[misc]
                lambda p=path: store.prune("bob", p, rng.randint(1, 3)),  # type: ignore[misc]
                lambda p=path: store.mkdir("bob", p),  # type: ignore[misc]
            ]
            try:
                rng.choices(actions, weights=(6, 6, 2, 2, 2, 1, 1))[0]()
                done += 1
            except AiosError:
                continue
            if number % 200 == 0:
                assert store.check().problems == []
        assert done > 500
        assert store.check().problems == []


# ---------------------------------------------------------------------------- shares


def test_shares_hold_for_what_they_name_and_end_when_taken_back(store: Rig) -> None:
    store.write("bob", "notes/a", b"1")
    store.write("bob", "secret", b"2")
    with pytest.raises(PermissionDenied, match="bob does not share it"):
        store.read("eve", "/shared/bob/notes/a")
    store.share("bob", "notes", "eve")
    assert store.read("eve", "/shared/bob/notes/a") == b"1"
    assert store.names("eve", "/shared") == ["/shared/bob"]
    assert store.names("eve", "/shared/bob") == ["/shared/bob/notes"]
    with pytest.raises(PermissionDenied, match="for reading only"):
        store.write("eve", "/shared/bob/notes/a", b"")
    for path in ("/shared/bob/secret", "/shared/bob/notesx", "/shared/bob"):
        with pytest.raises(PermissionDenied):
            store.write("eve", path, b"")
    with pytest.raises(PermissionDenied):
        store.read("eve", "/shared/bob/secret")
    store.share("bob", "notes", "eve", "write")
    store.write("eve", "/shared/bob/notes/b", b"3")
    assert store.history("bob", "notes/b")[0].by == "eve"
    store.share("bob", "notes", "eve", None)
    with pytest.raises(PermissionDenied):
        store.read("eve", "/shared/bob/notes/a")
    with pytest.raises(NotFound):
        store.share("bob", "notes", "eve", None)
    store.share("bob", "secret", "*")
    assert store.read("anyone", "/shared/bob/secret") == b"2"


# ---------------------------------------------------------------------------- search


class _Letters:
    """Embeds a text as its counts of letters."""

    def embed(
        self,
        texts: Sequence[str],
        done: Callable[[Outcome[list[bytes]]], None],
        *,
        kind: str = "passage",
    ) -> None:
        counts = [[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts]
        done(Outcome([np.array(row, np.float32).tobytes() for row in counts], None))


def test_search_knows_what_was_written_before_it(store: Rig) -> None:
    store.write("bob", "a.md", b"The kernel schedules agents fairly.\n" * 100)
    store.write("bob", "n/b.md", b"Bananas are yellow.")
    store.write("eve", "c.md", b"bananas of eve")
    store.write("bob", "bin", b"banana\0banana")
    found = store.search("bob", "yellow banana?")
    assert [hit.path for hit in found.hits] == ["/n/b.md"] and found.mode == "keyword"
    store.move("bob", "n/b.md", "n/c.md")
    store.write("bob", "a.md", b"nothing")
    assert [hit.path for hit in store.search("bob", "bananas").hits] == ["/n/c.md"]
    assert store.search("bob", "kernel").hits == []
    assert store.search("bob", "bananas", path="/a.md").hits == []
    store.delete("bob", "n/c.md")
    assert store.search("bob", "bananas").hits == []
    said = store.search("bob", "nothing", mode="semantic")
    assert said.mode == "keyword" and "no embedding model" in said.note


def test_search_by_meaning_when_there_is_an_embedder(store: Rig) -> None:
    store.storage.use_embedder(_Letters())
    store.write("bob", "a", b"aaaa")
    store.write("bob", "b", b"bbbb")
    store.search("bob", "x")
    for _ in range(50):
        found = store.search("bob", "aaab", mode="semantic")
        if len(found.hits) == 2:
            break
    assert [hit.path for hit in found.hits] == ["/a", "/b"] and found.mode == "semantic"
    assert store.search("bob", "bbbb").mode == "mixed"


class _Slow(_Letters):
    """Takes a batch when it is told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[Sequence[str], Callable[[], None]]] = []

    def embed(
        self,
        texts: Sequence[str],
        done: Callable[[Outcome[list[bytes]]], None],
        *,
        kind: str = "passage",
    ) -> None:
        answer = super().embed
        self.batches.append((texts, lambda: answer(texts, done, kind=kind)))


def test_who_writes_much_keeps_nobody_from_being_found_by_meaning(store: Rig) -> None:
    embedder = _Slow()
    for number in range(300):
        store.write("bob", f"f{number}", f"bob {number}".encode())
    store.write("bob", "picture", b"\0" * 5000)
    store.write("bob", "long", b"word " * 100_000)
    store.write("eve", "a", b"eve")
    assert store.search("bob", "300", mode="keyword").hits == []  # all is in by now
    store.storage.use_embedder(embedder)
    texts: list[str] = []
    until_eve = 0
    while True:
        for _ in range(20):  # turns: two hand-overs lie between batches
            if not embedder.batches:
                store.loop.turn(50)
        if not embedder.batches:
            break
        (batch, answer), *others = embedder.batches
        assert not others and len(batch) <= 32, "one small batch at a time"
        embedder.batches.clear()
        texts += batch
        until_eve += "eve" not in texts
        answer()
    assert until_eve <= 1
    assert len([text for text in texts if text.startswith("bob")]) == 300
    assert len([text for text in texts if text.startswith("word")]) == 64
    assert not any("\0" in text for text in texts)


def test_a_lost_index_is_made_anew(tmp_path: Path) -> None:
    with rig(tmp_path) as store:
        store.write("bob", "a", b"banana")
    (tmp_path / "index.db").write_bytes(b"nonsense" * 1000)
    with rig(tmp_path) as store:
        assert len(store.search("bob", "banana").hits) == 1


# ---------------------------------------------------------------------------- damage


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x41]))


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
    _flip(folder / "meta.db", 3)
    assert "aios storage restore" in _refused(folder).hint
    lock = Lock(folder)
    old = backup.restore(saved, folder)
    lock.close()
    assert (old / "meta.db").exists()
    with rig(folder) as store:
        assert store.read("bob", "big") == BIG and store.read("bob", "f7")[:9] == b"content 7"
        assert store.check().problems == []


def _change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "meta.db")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def test_a_database_is_looked_at_unless_it_was_closed_well_and_nothing_touched_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def looked(connection: sqlite3.Connection) -> damage.Damage:
        nonlocal looks
        looks += 1
        return damage.damage(connection)

    monkeypatch.setattr(commit, "damage", looked)

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


def test_damage_that_was_met_is_looked_for_at_the_next_start(tmp_path: Path) -> None:
    with rig(tmp_path) as store:
        store.write("bob", "a", b"one")
        store.write("bob", "b", b"two")
    _change(tmp_path, "UPDATE version SET sum = sum + 1 WHERE file = 1")
    for _ in range(3):
        with rig(tmp_path) as store:
            assert len(store.storage.damage.lines) == 1
            assert store.read("bob", "b") == b"two"


def test_damaged_rows_stop_those_who_touch_them_and_nobody_else(tmp_path: Path) -> None:
    with rig(tmp_path) as store:
        for name in ("a", "b", "c", "d"):
            store.write("bob", name, b"one")
            store.write("bob", name, b"two")
        store.share("bob", "a", "eve")
        store.share("bob", "b", "eve")
        store.mount("bob", "m", tmp_path)
        store.mount("bob", "n", tmp_path)
        for key in ("k", "l"):
            store.ask(lambda done, key=key: store.storage.set_value("bob", key, b"\1", None, done))
    _change(
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
        status: s.StorageStatus = store.ask(store.chores.status)
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
        for _ in range(20):  # the damaged version is pruned, and takes nothing of others along
            store.write("bob", "d", b"more")
        assert store.read("bob", "a", version=1) == b"one"

        assert store.read("eve", "/shared/bob/a") == b"three"
        with pytest.raises(StorageDamaged, match="grant of /b"):
            store.read("eve", "/shared/bob/b")
        assert store.names("bob", "/mnt/n")
        with pytest.raises(StorageDamaged, match="mount m of bob"):
            store.names("bob", "/mnt/m")
        with pytest.raises(StorageDamaged, match="'k'") as error:
            store.ask(lambda done: storage.get_value("bob", "k", done))
        assert "set it anew" in error.value.hint
        store.ask(lambda done: storage.set_value("bob", "k", b"\3", None, done))
        assert store.ask(lambda done: storage.get_value("bob", "k", done)).value == 3
        assert store.ask(lambda done: storage.get_value("bob", "l", done)).value == 1

        assert store.check(repair=True).mended and store.check().problems == []
        assert store.storage.warnings() == []
        assert store.read("bob", "a") == b"three" and store.read("bob", "d") == b"more"


def _blobs(folder: Path) -> set[Path]:
    return {path for path in (folder / "blobs").rglob("*") if path.is_file()}


def test_writes_that_damage_refuses_leave_no_blobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(tmp_path) as store:
        store.write("bob", "a", b"one")
    _change(tmp_path, "UPDATE file SET size = 9 WHERE name = 'a'")
    with rig(tmp_path) as store, pytest.raises(StorageDamaged):
        store.write("bob", "a", BIG)
    assert not _blobs(tmp_path)
    monkeypatch.setattr(
        "aios.kernel.storage.db.commit.damage", lambda _: Damage(["twice used"], [])
    )
    for _ in range(2):  # starts that are not counted
        with rig(tmp_path) as store:
            with pytest.raises(StorageDamaged, match="twice used"):
                store.write("bob", "b", BIG)
            with pytest.raises(StorageDamaged, match="twice used"):
                store.ask(lambda done, store=store: store.storage.uploads.begin(
                    "3", resolve("b", "bob"), "bob", None, done))  # fmt: skip
            before = len(_blobs(tmp_path))
            assert store.storage.content.blobs
            pieces = store.storage.content.blobs.cut(BIG)  # of a file for a mount
            assert len(_blobs(tmp_path)) == before + len(pieces)


class _Disk:
    """A connection on a disk that fails at some statements."""

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


def test_what_cannot_be_read_fails_who_reads_it_and_a_failed_commit_everybody(
    tmp_path: Path,
) -> None:
    def read(_: sqlite3.Connection) -> None:
        raise _unreadable()

    with rig(tmp_path) as store:
        storage, committer = store.storage, store.storage._committer
        with pytest.raises(StorageUnavailable, match="I/O"):
            store.ask(lambda done: committer.view(read, done))
        outcomes: list[Outcome[Any]] = []
        hold, held = threading.Event(), threading.Event()
        committer.view(lambda _: (held.set(), hold.wait()), lambda _: None)
        held.wait()
        storage.set_value("bob", "k", b"\1", None, outcomes.append)  # these two share a commit
        storage.change(read, outcomes.append)
        hold.set()
        while len(outcomes) < 2:
            store.loop.turn(10_000)
        assert outcomes[0].error is None and isinstance(outcomes[1].error, StorageUnavailable)
        assert storage.failure is None and not _blobs(tmp_path)
        assert committer._connection
        committer._connection = _Disk(committer._connection, "COMMIT")  # type: ignore[assignment]
        with pytest.raises(StorageUnavailable):
            store.write("bob", "a", BIG)
        assert storage.failure and _blobs(tmp_path), "the disk may have it"
        with pytest.raises(StorageUnavailable):
            store.write("bob", "b", b"two")


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    """Else a file that is there would not be found."""
    with rig(tmp_path) as store:
        store.write("bob", "a", b"one")
    _change(
        tmp_path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'live = 1', 'live = 7')"
        " WHERE name = 'file_live'",
    )
    _change(tmp_path, "REINDEX")
    _change(
        tmp_path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'live = 7', 'live = 1')"
        " WHERE name = 'file_live'",
    )
    with rig(tmp_path) as store:
        assert store.read("bob", "a") == b"one" and store.storage.warnings() == []


def test_random_damage_never_shows_as_content(tmp_path: Path) -> None:
    """Bytes are changed anywhere in the database (seed printed): whatever is read is what was
    written or a typed error, most is read, and what is written then is there."""
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
            _flip(folder / "meta.db", rng.randrange(100, size))
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
        _flip(blob, 5000)
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


def test_a_flipped_bit_in_the_log_is_not_taken_for_its_end(tmp_path: Path) -> None:
    """SQLite would drop all commits behind it without a word."""
    with rig(tmp_path) as store:
        for number in range(20):
            store.write("bob", f"f{number}", bytes([number]) * 3000)
        log = (tmp_path / "meta.db-wal").read_bytes()
    copy = tmp_path / "log"
    copy.write_bytes(log)
    assert wal.damage(copy) == ""
    copy.write_bytes(log[: len(log) * 2 // 3])
    assert wal.damage(copy) == "", "a torn end is no damage"
    for offset in (40, 32 + 24 + 100, len(log) // 2):
        copy.write_bytes(log)
        _flip(copy, offset)
        assert "commits behind are lost" in wal.damage(copy)
    copy.write_bytes(log)
    _flip(copy, 17)
    assert "header" in wal.damage(copy)
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


def test_values(store: Rig) -> None:
    storage = store.storage
    entry: s.KvEntry = store.ask(lambda done: storage.set_value("bob", "k", b"\x01", None, done))
    assert entry.version == 1
    with pytest.raises(VersionConflict):
        store.ask(lambda done: storage.set_value("bob", "k", b"\x02", 0, done))
    assert store.ask(lambda done: storage.get_value("bob", "k", done)).value == 1
    with pytest.raises(NotFound):
        store.ask(lambda done: storage.get_value("eve", "k", done))
    store.ask(lambda done: storage.delete_value("bob", "k", 1, done))
    assert store.usage("bob").used_bytes == 0
