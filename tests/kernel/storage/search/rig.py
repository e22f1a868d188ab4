"""Fake embedders, and what the tests of search share."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from aios.hw.embed.messages import TextKind
from aios.kernel.loop.task import Promise
from aios.syscalls.types import storage as s
from tests.kernel.storage.rig import Rig
from tests.waiting import wait_until


def settle(path: Path, unix: int = 1_700_000_000) -> None:
    """As if it had been changed long ago."""
    os.utime(path, (unix, unix))


def paths(found: s.FsFound) -> list[str]:
    return sorted(hit.path for hit in found.hits)


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "index.db")) as database:
        return database.execute(query).fetchall()


class Embedder:
    """Embeds a text as its counts of letters, and remembers the passages."""

    def __init__(self) -> None:
        self.passages: list[str] = []

    def embed(self, texts: Sequence[str], kind: TextKind = "passage") -> Promise[list[bytes]]:
        if kind == "passage":
            self.passages += texts
        counts = [[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts]
        promise: Promise[list[bytes]] = Promise()
        promise.resolve([np.array(row, np.float32).tobytes() for row in counts])
        return promise


class Stuck(Embedder):
    """Does not answer to what is of ``stuck``."""

    def __init__(self, *stuck: str) -> None:
        super().__init__()
        self.stuck = stuck

    def embed(self, texts: Sequence[str], kind: TextKind = "passage") -> Promise[list[bytes]]:
        return Promise() if kind in self.stuck else super().embed(texts, kind)


def embedded(store: Rig, agent: str = "bob") -> s.FsFound:
    """A search by meaning when all has its vector."""

    def whole() -> s.FsFound | None:
        found = store.search(agent, "kiwi", mode="semantic", limit=100)
        return None if found.note else found

    found = wait_until(whole, "the vectors of all passages")
    assert found
    return found
