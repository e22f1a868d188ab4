"""Search in mounted folders: what is found, who finds it, and how changes on the host show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aios.kernel.storage.files import mount
from aios.kernel.storage.search import mount_refresh, mount_walk
from aios.syscalls.errors import NotFound, PermissionDenied
from aios.syscalls.types import storage as s
from tests.kernel.storage.rig import Rig
from tests.waiting import turn_until, wait_until

from .rig import Embedder, embedded, paths, rows, settle


def test_mounts_are_searched_with_the_home_or_alone(store: Rig, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "k").write_text("kiwi, again")
    store.mount("bob", "o", tmp_path / "other")
    store.write("bob", "own", b"my kiwi")
    store.write("bob", "d/x", b"a kiwi in a folder")
    found = store.search("bob", "kiwi")
    assert paths(found) == ["/d/x", "/mnt/o/k", "/mnt/y/kiwi.md", "/mnt/y/sub/deep/kiwis.md",
                             "/own"]  # fmt: skip
    assert {hit.version for hit in found.hits if hit.path.startswith("/mnt")} == {0}
    assert (found.mode, found.note) == ("keyword", "")
    assert paths(store.search("bob", "kiwi", "/d")) == ["/d/x"]
    assert paths(store.search("bob", "kiwi", "/mnt/o")) == ["/mnt/o/k"]
    assert len(store.search("bob", "kiwi", "/mnt").hits) == 3
    assert paths(store.search("bob", "kiwi", "/mnt/y/sub")) == ["/mnt/y/sub/deep/kiwis.md"]
    assert paths(store.search("bob", "kiwi", "/mnt/y/kiwi.md")) == ["/mnt/y/kiwi.md"]
    assert store.search("bob", "kiwi", "/mnt/y/kiwi.md").hits[0].text.startswith("A kiwi")
    assert store.search("eve", "kiwi").hits == []
    for path in ("/mnt/none", "/mnt/y/none", "/mnt/y/su"):
        with pytest.raises(NotFound):
            store.search("bob", "kiwi", path)
    with pytest.raises(NotFound):
        store.search("eve", "kiwi", "/mnt/y")


def test_what_is_no_text_no_file_or_not_to_be_named_is_left_out(store: Rig, yard: Path) -> None:
    outside = yard.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret kiwi")
    (yard / "link").symlink_to(outside / "secret")
    (yard / "linked").symlink_to(outside)
    os.mkfifo(yard / "fifo")
    (yard / "binary").write_bytes(b"kiwi\0kiwi")
    (yard / "latin").write_bytes("kiwi größer".encode("latin-1"))
    (yard / "empty").touch()
    (yard / "two\nlines").write_text("kiwi")
    (yard / ".aios-part-1").write_text("kiwi")
    Path(os.fsdecode(os.fsencode(yard) + b"/\xff\xfe.md")).write_text("kiwi")
    deep = yard.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    (deep / "f").write_text("kiwi")
    old = yard / "old"
    old.write_text("an old kiwi")
    os.utime(old, ns=(0, 2**63 - 1))
    found = store.search("bob", "kiwi", limit=100)
    assert paths(found) == ["/mnt/y/kiwi.md", "/mnt/y/old", "/mnt/y/sub/deep/kiwis.md"]
    assert found.note == ""
    with pytest.raises(PermissionDenied):
        store.search("bob", "kiwi", "/mnt/y/linked")
    with pytest.raises(PermissionDenied):
        store.search("bob", "kiwi", "/mnt/y/link")


def test_of_a_huge_file_the_beginning_is_found_and_that_is_said(store: Rig, yard: Path) -> None:
    with (yard / "huge.txt").open("w") as file:
        file.write("mango begins\n" + "word " * 300_000 + "\npapaya ends\n")
    with (yard / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    found = store.search("bob", "mango")
    assert paths(found) == ["/mnt/y/huge.txt"]
    assert "/mnt/y: of files above 1 MiB only the beginning" in found.note
    assert store.search("bob", "papaya").hits == []
    assert store.search("bob", "plum", "/mnt/y/sub").note == "", "it is elsewhere"


def test_only_so_many_files_and_bytes_and_it_says_so(
    store: Rig, yard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (mount_refresh, mount_walk):
        monkeypatch.setattr(module, "MAX_FILES", 2)
    found = store.search("bob", "kiwi plum")
    assert paths(found) == ["/mnt/y/kiwi.md", "/mnt/y/sub/deep/kiwis.md"]
    assert found.note == "/mnt/y: only the first 2 files, in order of name, are searched"
    monkeypatch.setattr(mount_walk, "MAX_FILES", 100)
    assert len(store.search("bob", "kiwi plum").hits) == 3
    monkeypatch.setattr(mount_walk, "MAX_ENTRIES", 1)
    assert "only the first" in store.search("bob", "kiwi plum").note
    monkeypatch.setattr(mount_walk, "MAX_ENTRIES", 100)
    for number in range(40):
        (yard / "sub" / f"plum{number}").write_text(f"plum {number}")
    monkeypatch.setattr(mount_refresh, "MAX_MOUNT_BYTES", 80)
    found = store.search("bob", "plum", limit=100)
    assert 0 < len(found.hits) < 40 and "of its text are searched" in found.note
    monkeypatch.setattr(mount_refresh, "MAX_MOUNT_BYTES", 1 << 20)
    found = store.search("bob", "plum", limit=100)
    assert (len(found.hits), found.note) == (41, "")


def test_changes_on_the_host_are_seen_by_the_next_search(store: Rig, yard: Path) -> None:
    store.search("bob", "x")
    (yard / "kiwi.md").write_text("now of mangos")
    (yard / "sub" / "plum.md").unlink()
    (yard / "sub" / "new").write_text("a new kiwi")
    os.rename(yard / "sub" / "deep", yard / "moved")
    assert paths(store.search("bob", "kiwi")) == ["/mnt/y/moved/kiwis.md", "/mnt/y/sub/new"]
    assert store.search("bob", "plum").hits == []
    assert paths(store.search("bob", "mango")) == ["/mnt/y/kiwi.md"]


def test_a_change_that_leaves_size_and_time_as_they_were_is_seen_in_a_fresh_file(
    store: Rig, yard: Path
) -> None:
    path = yard / "kiwi.md"
    path.write_text("apples")
    state = path.stat()
    assert len(store.search("bob", "apples").hits) == 1
    path.write_text("grapes")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert paths(store.search("bob", "grapes")) == ["/mnt/y/kiwi.md"]


def test_what_was_only_renamed_or_touched_keeps_its_vectors(store: Rig, yard: Path) -> None:
    embedder = Embedder()
    store.storage.use_embedder(embedder)
    assert len(embedded(store).hits) == 3 and len(embedder.passages) == 3
    os.rename(yard / "kiwi.md", yard / "sub" / "renamed.md")
    settle(yard / "sub" / "plum.md", 1_600_000_000)
    found = embedded(store)
    assert paths(found) == ["/mnt/y/sub/deep/kiwis.md", "/mnt/y/sub/plum.md",
                             "/mnt/y/sub/renamed.md"]  # fmt: skip
    assert len(embedder.passages) == 3, "none was embedded again"


def test_a_folder_that_goes_and_comes_back_keeps_its_vectors(store: Rig, yard: Path) -> None:
    embedder = Embedder()
    store.storage.use_embedder(embedder)
    embedded(store)
    os.rename(yard, yard.with_name("away"))
    found = store.search("bob", "kiwi")
    assert found.hits == [] and found.note.startswith("/mnt/y: it cannot be read (No such file")
    os.rename(yard.with_name("away"), yard)
    assert len(embedded(store).hits) == 3 and len(embedder.passages) == 3


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_left_out_until_it_can(store: Rig, yard: Path) -> None:
    (yard / "kiwi.md").chmod(0)
    (yard / "sub").chmod(0)
    assert store.search("bob", "kiwi").hits == []
    (yard / "kiwi.md").chmod(0o600)
    (yard / "sub").chmod(0o700)
    assert len(store.search("bob", "kiwi").hits) == 2


def test_what_cannot_be_opened_is_left_out_until_it_can(
    store: Rig, yard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.search("bob", "x")
    (yard / "kiwi.md").write_text("a changed kiwi")
    whole = mount.read_all

    def broken(fd: int, offset: int, length: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(mount, "read_all", broken)
    assert paths(store.search("bob", "kiwi")) == ["/mnt/y/sub/deep/kiwis.md"]
    monkeypatch.setattr(mount, "read_all", whole)
    assert len(store.search("bob", "kiwi").hits) == 2


def test_who_may_not_read_finds_nothing_and_is_told_nothing(store: Rig, yard: Path) -> None:
    for number in range(50):
        (yard / "sub" / f"k{number}").write_text("kiwi kiwi")
    with (yard / "sub" / "huge").open("w") as file:
        file.write("kiwi " * 300_000)

    def nothing(path: str) -> bool:
        return not path.startswith("/mnt")

    def outer(path: str) -> bool:
        return not path.startswith("/mnt/y/sub/")

    store.write("bob", "own", b"my kiwi")
    store.storage.use_embedder(Embedder())
    for mode in ("keyword", "semantic", "auto"):
        found = store.search("bob", "kiwi", may=nothing, mode=mode)
        assert (set(paths(found)) <= {"/own"}, found.note) == (True, "")
        found = store.search("bob", "kiwi", "/mnt", may=nothing, mode=mode, within_s=0.0)
        assert (found.hits, "/mnt" in found.note) == ([], False)

    def whole() -> s.FsFound | None:
        found = store.search("bob", "kiwi", may=outer, limit=2)
        return found if found.mode == "mixed" and not found.note else None

    found = wait_until(whole, "a search by keyword and by meaning")
    assert paths(found) == ["/mnt/y/kiwi.md", "/own"], "others crowd nothing out"
    found = store.search("bob", "kiwi", may=lambda path: path == "/mnt/y/sub/huge", mode="keyword")
    assert set(paths(found)) == {"/mnt/y/sub/huge"} and "above 1 MiB" in found.note


def test_one_index_serves_all_for_whom_a_folder_is_mounted(
    store: Rig, yard: Path, tmp_path: Path
) -> None:
    store.mount("eve", "fruit", yard)
    store.mount("bob", "again", yard)
    assert paths(store.search("eve", "plum")) == ["/mnt/fruit/sub/plum.md"]
    assert paths(store.search("bob", "plum")) == ["/mnt/again/sub/plum.md"], "once"
    assert paths(store.search("bob", "plum", "/mnt/y")) == ["/mnt/y/sub/plum.md"]
    found = store.search("bob", "plum", may=lambda path: not path.startswith("/mnt/again"))
    assert paths(found) == ["/mnt/y/sub/plum.md"]
    assert rows(tmp_path / "s", "SELECT count(*) FROM document") == [(3,)]
    store.mount("bob", "y", None)
    store.mount("bob", "again", None)
    assert store.search("bob", "plum").hits == []
    assert len(store.search("eve", "plum").hits) == 1


def test_unmounting_takes_the_passages_out(store: Rig, yard: Path, tmp_path: Path) -> None:
    store.storage.use_embedder(Embedder())
    embedded(store)
    store.write("bob", "own", b"my kiwi")
    store.mount("bob", "y", None)
    assert paths(store.search("bob", "kiwi")) == ["/own"]
    turn_until(
        store.loop,
        lambda: rows(tmp_path / "s", "SELECT count(*) FROM mounted") == [(0,)],
        "an index without the folder",
    )
    for table in ("document WHERE file < 0", "vector WHERE file < 0",
                  "todo WHERE file < 0", "passage WHERE file < 0"):  # fmt: skip
        assert rows(tmp_path / "s", f"SELECT count(*) FROM {table}") == [(0,)]
    store.mount("bob", "y", yard)
    assert len(store.search("bob", "kiwi").hits) == 3
