"""The index of search: deadlines, restarts, damage, and repair."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aios.kernel.retrieval.vectors import unpack
from aios.kernel.storage.repair import index_check
from aios.syscalls.errors import StorageUnavailable
from tests.kernel.storage.rig import Rig, rig
from tests.waiting import turn_until

from .rig import Embedder, Stuck, embedded, paths, rows


def test_a_search_ends_in_time_with_what_is_there(store: Rig, yard: Path) -> None:
    for number in range(200):
        (yard / f"f{number}").write_text(f"kiwi {number}")
    store.write("bob", "own", b"my kiwi")
    assert len(store.search("bob", "kiwi", "/own").hits) == 1
    found = store.search("bob", "kiwi", within_s=0.0)
    assert "/own" in paths(found)
    assert found.note == "/mnt/y: it is being indexed; what is not read yet is not found"
    found = store.search("bob", "kiwi", limit=100)
    assert (len(found.hits), found.note) == (100, "")


def test_an_embedder_that_does_not_answer_costs_only_the_meaning(store: Rig) -> None:
    store.storage.use_embedder(Stuck("query"))
    found = store.search("bob", "kiwi", within_s=0.3)
    assert (len(found.hits), found.mode) == (2, "keyword")
    assert found.note == "searched by keyword: the query's vector was not there in time"


def test_missing_vectors_are_told_to_those_who_may_read_the_files(store: Rig) -> None:
    store.storage.use_embedder(Stuck("passage"))
    found = store.search("bob", "kiwi")
    assert (len(found.hits), found.mode) == (2, "mixed"), "by keyword"
    assert found.note.startswith("/mnt/y: some of its passages are not found by meaning yet")
    assert store.search("bob", "kiwi", mode="keyword").note == ""
    assert store.search("bob", "kiwi", may=lambda path: path == "/mnt/y").note == ""


def test_a_kernel_that_starts_again_knows_what_it_had(tmp_path: Path, yard: Path) -> None:
    embedder = Embedder()
    with rig(tmp_path / "t") as store:
        store.mount("bob", "y", yard)
        store.storage.use_embedder(embedder)
        embedded(store)
    with rig(tmp_path / "t") as store:
        store.storage.use_embedder(embedder)
        assert len(embedded(store).hits) == 3 and len(embedder.passages) == 3
    (tmp_path / "t" / "index.db").write_bytes(b"nonsense" * 1000)
    with rig(tmp_path / "t") as store:
        assert len(store.search("bob", "kiwi").hits) == 2
    with closing(sqlite3.connect(tmp_path / "t" / "meta.db")) as database:
        database.execute("DELETE FROM mount")
        database.commit()
    with rig(tmp_path / "t") as store:
        store.search("bob", "x")
        turn_until(
            store.loop,
            lambda: rows(tmp_path / "t", "SELECT count(*) FROM document") == [(0,)],
            "an empty index",
        )


def test_vectors_follow_the_files(store: Rig, yard: Path) -> None:
    store.storage.use_embedder(Embedder())
    assert len(embedded(store).hits) == 3
    (yard / "kiwi.md").unlink()
    (yard / "sub" / "plum.md").write_text("xxxx")
    (yard / "new.md").write_text("zzzz")
    embedded(store)
    for query, path in (("zz", "/mnt/y/new.md"), ("xx", "/mnt/y/sub/plum.md")):
        found = store.search("bob", query, mode="semantic")
        assert found.hits[0].path == path and found.hits[0].score > 0.99
        assert paths(found) == ["/mnt/y/new.md", "/mnt/y/sub/deep/kiwis.md", "/mnt/y/sub/plum.md"]


def test_vectors_of_the_older_format_are_packed(tmp_path: Path, yard: Path) -> None:
    embedder = Embedder()
    with rig(tmp_path / "t") as store:
        store.mount("bob", "y", yard)
        store.storage.use_embedder(embedder)
        embedded(store)
    with closing(sqlite3.connect(tmp_path / "t" / "index.db")) as database:
        for passage, data in database.execute("SELECT passage, data FROM vector").fetchall():
            values = unpack(data)
            database.execute("UPDATE vector SET data = ? WHERE passage = ?",
                             ((values / np.linalg.norm(values)).tobytes(), passage))  # fmt: skip
        database.execute("PRAGMA user_version = 3")
        database.commit()
    with closing(sqlite3.connect(tmp_path / "t" / "meta.db")) as files:
        found = index_check.examine(tmp_path / "t" / "index.db", files)
    assert found == index_check.IndexFindings(), "an offline check leaves it to the kernel"
    with rig(tmp_path / "t") as store:
        store.storage.use_embedder(embedder)
        assert len(embedded(store).hits) == 3 and len(embedder.passages) == 3
        assert store.check().problems == []


def test_damage_that_a_search_meets_has_the_index_made_anew(
    store: Rig, yard: Path, tmp_path: Path
) -> None:
    store.write("bob", "own", b"my kiwi")
    assert len(store.search("bob", "kiwi").hits) == 3
    with closing(sqlite3.connect(tmp_path / "s" / "index.db")) as database:
        database.execute("DELETE FROM passage_data WHERE id > 10")
        database.commit()
    with pytest.raises(StorageUnavailable, match="being rebuilt"):
        store.search("bob", "kiwi")
    assert len(store.search("bob", "kiwi").hits) == 3


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
    store.storage.use_embedder(Embedder())
    embedded(store)
    assert store.check().problems == []
    with closing(sqlite3.connect(tmp_path / "s" / "index.db")) as database:
        database.execute(damage)
        database.commit()
    problems = store.check().problems
    assert any(finding in line for line in problems), problems
    assert all(line.startswith("the search index: ") for line in problems)
    mended = store.check(repair=True).mended
    assert mended == ["the search index is rebuilt from the files"]
    assert paths(store.search("bob", "kiwi")) == ["/mnt/y/kiwi.md", "/mnt/y/sub/deep/kiwis.md",
                                                   "/own"]  # fmt: skip
    embedded(store)
    assert store.check().problems == [] and not (tmp_path / "s" / "index.check").exists()


def test_an_index_that_cannot_be_looked_at_is_left_as_it_is(
    store: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> sqlite3.Connection:
        raise OSError(28, "No space left on device")

    store.search("bob", "kiwi")
    monkeypatch.setattr(index_check, "reading", full)
    report = store.check(repair=True)
    assert ["cannot be checked: [Errno 28]" in line for line in report.problems] == [True]
    assert report.mended == []
    assert rows(tmp_path / "s", "SELECT count(*) FROM document") == [(3,)], "of a full disk, too"


def test_an_index_that_has_not_caught_up_is_not_damaged(store: Rig) -> None:
    store.write("bob", "own", b"my kiwi")
    assert store.search("bob", "kiwi", "/own").hits
    store.write("bob", "own", b"my plum")
    store.delete("bob", "own")
    store.write("bob", "other", b"a kiwi")
    assert store.check().problems == []
