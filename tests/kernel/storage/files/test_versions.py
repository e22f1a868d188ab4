"""Files and their versions: content, appends, deletion, moves, and conflicts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from aios.syscalls.errors import (
    IllegalState,
    InvalidArgument,
    NotFound,
    VersionConflict,
)
from tests.kernel.storage.rig import BIG, Rig, rig


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


def test_old_versions_beyond_the_limit_are_dropped(tmp_path: Path) -> None:
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


def test_a_folder_is_not_a_file(store: Rig) -> None:
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
