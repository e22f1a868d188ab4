"""Search in mounted folders: what is found, who finds it, and what changes on the host do to it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aios.kernel.loop.task import Outcome
from aios.kernel.storage.repair import index_check
from aios.kernel.storage.search import refresh, walk
from aios.syscalls.errors import NotFound, PermissionDenied, StorageUnavailable
from aios.syscalls.types import storage as s

from .rig import Rig, rig


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A folder of the host."""
    folder = tmp_path / "yard"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "kiwi.md").write_text("A kiwi is a fruit, and a bird.")
    (folder / "sub" / "plum.md").write_text("The plum is blue.")
    (folder / "sub" / "deep" / "kiwis.md").write_text("Kiwis grow on vines.")
    for path in folder.rglob("*.md"):
        _settle(path)
    return folder


@pytest.fixture
def store(tmp_path: Path, yard: Path) -> Iterator[Rig]:
    with rig(tmp_path / "s") as made:
        made.mount("bob", "y", yard)
        yield made


def _settle(path: Path, unix: int = 1_700_000_000) -> None:
    """As if it had been changed long ago."""
    os.utime(path, (unix, unix))


def _paths(found: s.FsFound) -> list[str]:
    return sorted(hit.path for hit in found.hits)


def _rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "index.db")) as database:
        return database.execute(query).fetchall()


class _Embedder:
    """Embeds a text as its counts of letters, and remembers the passages."""

    def __init__(self) -> None:
        self.passages: list[str] = []

    def embed(
        self,
        texts: Sequence[str],
        done: Callable[[Outcome[list[bytes]]], None],
        *,
        kind: str = "passage",
    ) -> None:
        if kind == "passage":
            self.passages += texts
        counts = [[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts]
        done(Outcome([np.array(row, np.float32).tobytes() for row in counts], None))


class _Stuck(_Embedder):
    """Does not answer to what is of ``stuck``."""

    def __init__(self, *stuck: str) -> None:
        super().__init__()
        self.stuck = stuck

    def embed(
        self,
        texts: Sequence[str],
        done: Callable[[Outcome[list[bytes]]], None],
        *,
        kind: str = "passage",
    ) -> None:
        if kind not in self.stuck:
            super().embed(texts, done, kind=kind)


def _embedded(store: Rig, agent: str = "bob") -> s.FsFound:
    """A search by meaning when all has its vector."""
    for _ in range(100):
        found = store.search(agent, "kiwi", mode="semantic", limit=100)
        if not found.note:
            return found
    raise AssertionError(found.note)


# ---------------------------------------------------------------------------- what is found


def test_mounts_are_searched_with_the_home_or_alone(store: Rig, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "k").write_text("kiwi, again")
    store.mount("bob", "o", tmp_path / "other")
    store.write("bob", "own", b"my kiwi")
    store.write("bob", "d/x", b"a kiwi in a folder")
    found = store.search("bob", "kiwi")
    assert _paths(found) == ["/d/x", "/mnt/o/k", "/mnt/y/kiwi.md", "/mnt/y/sub/deep/kiwis.md",
                             "/own"]  # fmt: skip
    assert {hit.version for hit in found.hits if hit.path.startswith("/mnt")} == {0}
    assert (found.mode, found.note) == ("keyword", "")
    assert _paths(store.search("bob", "kiwi", "/d")) == ["/d/x"]
    assert _paths(store.search("bob", "kiwi", "/mnt/o")) == ["/mnt/o/k"]
    assert len(store.search("bob", "kiwi", "/mnt").hits) == 3
    assert _paths(store.search("bob", "kiwi", "/mnt/y/sub")) == ["/mnt/y/sub/deep/kiwis.md"]
    assert _paths(store.search("bob", "kiwi", "/mnt/y/kiwi.md")) == ["/mnt/y/kiwi.md"]
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
    assert _paths(found) == ["/mnt/y/kiwi.md", "/mnt/y/old", "/mnt/y/sub/deep/kiwis.md"]
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
    assert _paths(found) == ["/mnt/y/huge.txt"]
    assert "/mnt/y: of files above 1 MiB only the beginning" in found.note
    assert store.search("bob", "papaya").hits == []
    assert store.search("bob", "plum", "/mnt/y/sub").note == "", "it is elsewhere"


def test_only_so_many_files_and_bytes_and_it_says_so(
    store: Rig, yard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (refresh, walk):
        monkeypatch.setattr(module, "MOST_FILES", 2)
    found = store.search("bob", "kiwi plum")
    assert _paths(found) == ["/mnt/y/kiwi.md", "/mnt/y/sub/deep/kiwis.md"]
    assert found.note == "/mnt/y: only the first 2 files, in order of name, are searched"
    monkeypatch.setattr(walk, "MOST_FILES", 100)
    assert len(store.search("bob", "kiwi plum").hits) == 3
    monkeypatch.setattr(walk, "MOST_ENTRIES", 1)
    assert "only the first" in store.search("bob", "kiwi plum").note
    monkeypatch.setattr(walk, "MOST_ENTRIES", 100)
    for number in range(40):
        (yard / "sub" / f"plum{number}").write_text(f"plum {number}")
    monkeypatch.setattr(refresh, "MOST_MOUNT_BYTES", 80)
    found = store.search("bob", "plum", limit=100)
    assert 0 < len(found.hits) < 40 and "of its text are searched" in found.note
    monkeypatch.setattr(refresh, "MOST_MOUNT_BYTES", 1 << 20)
    found = store.search("bob", "plum", limit=100)
    assert (len(found.hits), found.note) == (41, "")


# ---------------------------------------------------------------------------- changes underneath


def test_changes_on_the_host_are_seen_by_the_next_search(store: Rig, yard: Path) -> None:
    store.search("bob", "x")
    (yard / "kiwi.md").write_text("now of mangos")
    (yard / "sub" / "plum.md").unlink()
    (yard / "sub" / "new").write_text("a new kiwi")
    os.rename(yard / "sub" / "deep", yard / "moved")
    assert _paths(store.search("bob", "kiwi")) == ["/mnt/y/moved/kiwis.md", "/mnt/y/sub/new"]
    assert store.search("bob", "plum").hits == []
    assert _paths(store.search("bob", "mango")) == ["/mnt/y/kiwi.md"]


def test_a_change_that_leaves_size_and_time_as_they_were_is_seen_in_a_fresh_file(
    store: Rig, yard: Path
) -> None:
    path = yard / "kiwi.md"
    path.write_text("apples")
    state = path.stat()
    assert len(store.search("bob", "apples").hits) == 1
    path.write_text("grapes")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert _paths(store.search("bob", "grapes")) == ["/mnt/y/kiwi.md"]


def test_what_was_only_renamed_or_touched_keeps_its_vectors(store: Rig, yard: Path) -> None:
    embedder = _Embedder()
    store.storage.use_embedder(embedder)
    assert len(_embedded(store).hits) == 3 and len(embedder.passages) == 3
    os.rename(yard / "kiwi.md", yard / "sub" / "renamed.md")
    _settle(yard / "sub" / "plum.md", 1_600_000_000)
    found = _embedded(store)
    assert _paths(found) == ["/mnt/y/sub/deep/kiwis.md", "/mnt/y/sub/plum.md",
                             "/mnt/y/sub/renamed.md"]  # fmt: skip
    assert len(embedder.passages) == 3, "none was embedded again"


def test_a_folder_that_goes_and_comes_back_keeps_its_vectors(store: Rig, yard: Path) -> None:
    embedder = _Embedder()
    store.storage.use_embedder(embedder)
    _embedded(store)
    os.rename(yard, yard.with_name("away"))
    found = store.search("bob", "kiwi")
    assert found.hits == [] and found.note.startswith("/mnt/y: it cannot be read (No such file")
    os.rename(yard.with_name("away"), yard)
    assert len(_embedded(store).hits) == 3 and len(embedder.passages) == 3


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
    whole = walk.hosts.read_all

    def broken(fd: int, offset: int, length: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(walk.hosts, "read_all", broken)
    assert _paths(store.search("bob", "kiwi")) == ["/mnt/y/sub/deep/kiwis.md"]
    monkeypatch.setattr(walk.hosts, "read_all", whole)
    assert len(store.search("bob", "kiwi").hits) == 2


# ---------------------------------------------------------------------------- rights


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
    store.storage.use_embedder(_Embedder())
    for mode in ("keyword", "semantic", "auto"):
        found = store.search("bob", "kiwi", may=nothing, mode=mode)
        assert (set(_paths(found)) <= {"/own"}, found.note) == (True, "")
        found = store.search("bob", "kiwi", "/mnt", may=nothing, mode=mode, within_s=0.0)
        assert (found.hits, "/mnt" in found.note) == ([], False)
    for _ in range(100):
        found = store.search("bob", "kiwi", may=outer, limit=2)
        if found.mode == "mixed" and not found.note:
            break
    assert _paths(found) == ["/mnt/y/kiwi.md", "/own"], "others crowd nothing out"
    found = store.search("bob", "kiwi", may=lambda path: path == "/mnt/y/sub/huge", mode="keyword")
    assert set(_paths(found)) == {"/mnt/y/sub/huge"} and "above 1 MiB" in found.note


def test_one_index_serves_all_for_whom_a_folder_is_mounted(
    store: Rig, yard: Path, tmp_path: Path
) -> None:
    store.mount("eve", "fruit", yard)
    store.mount("bob", "again", yard)
    assert _paths(store.search("eve", "plum")) == ["/mnt/fruit/sub/plum.md"]
    assert _paths(store.search("bob", "plum")) == ["/mnt/again/sub/plum.md"], "once"
    assert _paths(store.search("bob", "plum", "/mnt/y")) == ["/mnt/y/sub/plum.md"]
    found = store.search("bob", "plum", may=lambda path: not path.startswith("/mnt/again"))
    assert _paths(found) == ["/mnt/y/sub/plum.md"]
    assert _rows(tmp_path / "s", "SELECT count(*) FROM document") == [(3,)]
    store.mount("bob", "y", None)
    store.mount("bob", "again", None)
    assert store.search("bob", "plum").hits == []
    assert len(store.search("eve", "plum").hits) == 1


def test_unmounting_takes_the_passages_out(store: Rig, yard: Path, tmp_path: Path) -> None:
    store.storage.use_embedder(_Embedder())
    _embedded(store)
    store.write("bob", "own", b"my kiwi")
    store.mount("bob", "y", None)
    assert _paths(store.search("bob", "kiwi")) == ["/own"]
    for _ in range(20):
        if _rows(tmp_path / "s", "SELECT count(*) FROM mounted") == [(0,)]:
            break
        store.loop.turn(20)
    for table in ("mounted", "document WHERE file < 0", "vector WHERE file < 0",
                  "todo WHERE file < 0", "passage WHERE file < 0"):  # fmt: skip
        assert _rows(tmp_path / "s", f"SELECT count(*) FROM {table}") == [(0,)]
    store.mount("bob", "y", yard)
    assert len(store.search("bob", "kiwi").hits) == 3


# ---------------------------------------------------------------------------- time


def test_a_search_ends_in_time_with_what_is_there(store: Rig, yard: Path) -> None:
    for number in range(200):
        (yard / f"f{number}").write_text(f"kiwi {number}")
    store.write("bob", "own", b"my kiwi")
    assert len(store.search("bob", "kiwi", "/own").hits) == 1
    found = store.search("bob", "kiwi", within_s=0.0)
    assert "/own" in _paths(found)
    assert found.note == "/mnt/y: it is being indexed; what is not read yet is not found"
    found = store.search("bob", "kiwi", limit=100)
    assert (len(found.hits), found.note) == (100, "")


def test_an_embedder_that_does_not_answer_costs_only_the_meaning(store: Rig) -> None:
    store.storage.use_embedder(_Stuck("query"))
    found = store.search("bob", "kiwi", within_s=0.3)
    assert (len(found.hits), found.mode) == (2, "keyword")
    assert found.note == "searched by keyword: the query's vector was not there in time"


def test_missing_vectors_are_told_to_those_who_may_read_the_files(store: Rig) -> None:
    store.storage.use_embedder(_Stuck("passage"))
    found = store.search("bob", "kiwi")
    assert (len(found.hits), found.mode) == (2, "mixed"), "by keyword"
    assert found.note.startswith("/mnt/y: some of its passages are not found by meaning yet")
    assert store.search("bob", "kiwi", mode="keyword").note == ""
    assert store.search("bob", "kiwi", may=lambda path: path == "/mnt/y").note == ""


def test_a_kernel_that_starts_again_knows_what_it_had(tmp_path: Path, yard: Path) -> None:
    embedder = _Embedder()
    with rig(tmp_path / "t") as store:
        store.mount("bob", "y", yard)
        store.storage.use_embedder(embedder)
        _embedded(store)
    with rig(tmp_path / "t") as store:
        store.storage.use_embedder(embedder)
        assert len(_embedded(store).hits) == 3 and len(embedder.passages) == 3
    (tmp_path / "t" / "index.db").write_bytes(b"nonsense" * 1000)
    with rig(tmp_path / "t") as store:
        assert len(store.search("bob", "kiwi").hits) == 2
    with closing(sqlite3.connect(tmp_path / "t" / "meta.db")) as database:
        database.execute("DELETE FROM mount")
        database.commit()
    with rig(tmp_path / "t") as store:
        store.search("bob", "x")
        for _ in range(20):
            if _rows(tmp_path / "t", "SELECT count(*) FROM document") == [(0,)]:
                break
            store.loop.turn(20)
        assert _rows(tmp_path / "t", "SELECT count(*) FROM document") == [(0,)]


def test_damage_that_a_search_meets_has_the_index_made_anew(
    store: Rig, yard: Path, tmp_path: Path
) -> None:
    store.write("bob", "own", b"my kiwi")
    assert len(store.search("bob", "kiwi").hits) == 3
    with closing(sqlite3.connect(tmp_path / "s" / "index.db")) as database:
        database.execute("DELETE FROM passage_data WHERE id > 10")
        database.commit()
    with pytest.raises(StorageUnavailable, match="made anew"):
        store.search("bob", "kiwi")
    assert len(store.search("bob", "kiwi").hits) == 3


# ---------------------------------------------------------------------------- silent damage


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("UPDATE passage_data SET block = zeroblob(0) WHERE id > 10", "words are not those"),
        ("UPDATE passage_content SET c0 = 'now of plums' WHERE c0 LIKE '%kiwi%'", "words are not"),
        ("UPDATE passage_content SET c3 = 'eve' WHERE c3 = 'bob'", "of passage are of no document"),
        ("UPDATE passage_content SET c2 = c2 + 100", "of passage are of no document"),
        ("UPDATE document SET owner = 'eve' WHERE owner = 'bob'", "are of no document"),
        ("UPDATE document SET version = 7 WHERE file >= 0", "1 documents are not the files"),
        ("DELETE FROM document WHERE file < 0", "of passage are of no document"),
        ("UPDATE vector SET passage = passage + 100", "of vector are of no document"),
        ("UPDATE vector SET data = x'0000803f0000803f'", "vectors are not what was"),
    ],
)
def test_damage_that_sqlite_reads_over_is_found_and_mended(
    store: Rig, tmp_path: Path, damage: str, finding: str
) -> None:
    store.write("bob", "own", b"my kiwi")
    store.storage.use_embedder(_Embedder())
    _embedded(store)
    assert store.check().problems == []
    with closing(sqlite3.connect(tmp_path / "s" / "index.db")) as database:
        database.execute(damage)
        database.commit()
    problems = store.check().problems
    assert any(finding in line for line in problems), problems
    assert all(line.startswith("the index of search: ") for line in problems)
    mended = store.check(repair=True).mended
    assert mended == ["the index of search is made anew from the files"]
    assert _paths(store.search("bob", "kiwi")) == ["/mnt/y/kiwi.md", "/mnt/y/sub/deep/kiwis.md",
                                                   "/own"]  # fmt: skip
    _embedded(store)
    assert store.check().problems == [] and not (tmp_path / "s" / "index.check").exists()


def test_an_index_that_cannot_be_looked_at_is_left_as_it_is(
    store: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> sqlite3.Connection:
        raise OSError(28, "No space left on device")

    store.search("bob", "kiwi")
    monkeypatch.setattr(index_check, "reading", full)
    report = store.check(repair=True)
    assert ["cannot be looked at: [Errno 28]" in line for line in report.problems] == [True]
    assert report.mended == []
    assert _rows(tmp_path / "s", "SELECT count(*) FROM document") == [(3,)], "of a full disk, too"


def test_an_index_that_has_not_caught_up_is_not_damaged(store: Rig) -> None:
    store.write("bob", "own", b"my kiwi")
    assert store.search("bob", "kiwi", "/own").hits
    store.write("bob", "own", b"my plum")
    store.delete("bob", "own")
    store.write("bob", "other", b"a kiwi")
    assert store.check().problems == []
