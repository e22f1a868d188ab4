"""Search in the home of an agent, by keyword and by meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from aios.hw.embed.messages import TextKind
from aios.kernel.loop.task import Promise
from aios.syscalls.types import storage as s
from tests.kernel.storage.rig import Rig, rig
from tests.waiting import turn_until, wait_until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Rig]:
    """Storage with no mounted folder, free of damage at the end of the test."""
    with rig(tmp_path / "s") as made:
        yield made
        assert made.check().problems == []


class _Letters:
    """Embeds a text as its counts of letters."""

    def embed(self, texts: Sequence[str], kind: TextKind = "passage") -> Promise[list[bytes]]:
        counts = [[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts]
        promise: Promise[list[bytes]] = Promise()
        promise.resolve([np.array(row, np.float32).tobytes() for row in counts])
        return promise


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

    def both() -> s.FsFound | None:
        found = store.search("bob", "aaab", mode="semantic")
        return found if len(found.hits) == 2 else None

    found = wait_until(both, "the vectors of both files")
    assert [hit.path for hit in found.hits] == ["/a", "/b"] and found.mode == "semantic"
    assert store.search("bob", "bbbb").mode == "mixed"


class _Slow(_Letters):
    """Takes a batch when it is told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[Sequence[str], Callable[[], None]]] = []

    def embed(self, texts: Sequence[str], kind: TextKind = "passage") -> Promise[list[bytes]]:
        answer = super().embed(texts, kind)
        promise: Promise[list[bytes]] = Promise()
        self.batches.append((texts, lambda: answer.then(promise.settle)))
        return promise


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
    while len(texts) < 300 + 64 + 1:  # the beginning of the long file alone is embedded
        turn_until(store.loop, lambda: embedder.batches, "the next batch")
        (batch, answer), *others = embedder.batches
        assert not others and len(batch) <= 32, "one small batch at a time"
        embedder.batches.clear()
        texts += batch
        until_eve += "eve" not in texts
        answer()
    for _ in range(3):
        store.loop.turn(20)
    assert until_eve <= 1 and not embedder.batches
    assert len([text for text in texts if text.startswith("bob")]) == 300
    assert len([text for text in texts if text.startswith("word")]) == 64
    assert not any("\0" in text for text in texts)


def test_a_lost_index_is_made_anew(tmp_path: Path) -> None:
    with rig(tmp_path) as store:
        store.write("bob", "a", b"banana")
    (tmp_path / "index.db").write_bytes(b"nonsense" * 1000)
    with rig(tmp_path) as store:
        assert len(store.search("bob", "banana").hits) == 1
