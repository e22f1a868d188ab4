"""Garbage: blobs that no row names any more, and how they are deleted.

The commit that drops the last reference to a blob notes it in the table ``garbage``; a sweep
deletes it later. The blobs of a failed commit are deleted at once. Blobs that a killed kernel left
behind are found by name at the next start. Runs in the kernel's thread; deletions run in the
lane of their store.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aios.kernel.loop.lanes import Lanes
from aios.kernel.loop.task import Outcome, detach
from aios.kernel.storage.db.commit import Committer

from .blobs import Blobs
from .chunks import Piece

log = logging.getLogger("aios.storage")

_BATCH = 500
"""Blobs deleted between two commits."""


class Garbage:
    """Deletes blobs, each store's in a sweep of its own."""

    def __init__(self, committer: Committer, lanes: Lanes, blobs: Blobs) -> None:
        self._committer, self._lanes, self._blobs = committer, lanes, blobs
        self._holds = 0
        self._sweeping = set[int]()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delete nothing meanwhile."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self.sweep()

    def delete(self, pieces: Sequence[Piece]) -> None:
        """Delete the blobs of pieces that no commit has named."""
        blobs = [piece for piece in pieces if piece.data is None]

        def job() -> None:
            for piece in blobs:
                self._blobs.store(piece.store).delete([piece.key])

        def done(outcome: Outcome[None]) -> None:
            if outcome.error:
                log.warning("blobs of a failed write are left behind: %s", outcome.error)

        if blobs:
            self._lanes.submit(self._blobs.lane(*(piece.store for piece in blobs)), job, done)

    def sweep(self) -> None:
        """Delete garbage in all stores, unless it is held."""
        for store in self._blobs.urls if not self._holds else ():
            if store not in self._sweeping:
                self._sweeping.add(store)
                detach(self._sweep(store))

    async def _sweep(self, store: int) -> None:
        try:
            while keys := await self._committer.read(lambda c: _keys(c, store)):
                if self._holds:
                    break
                await self._delete(store, keys)
                if len(keys) < _BATCH:
                    break
        except Exception as error:
            log.warning("garbage is deleted later: %s", error)
        finally:
            self._sweeping.discard(store)

    async def _delete(self, store: int, keys: Sequence[str]) -> None:
        def forget(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "DELETE FROM garbage WHERE store = ? AND key = ?", [(store, key) for key in keys]
            )

        blobs = self._blobs
        await self._lanes.run(blobs.lane(store), lambda: blobs.store(store).delete(keys))
        await self._committer.change(forget)

    async def collect_orphans(self) -> None:
        """Find and delete local blobs that a killed kernel wrote and no row names.

        A remote store is listed only by ``aios storage check --repair``.
        """
        blobs, store = self._blobs, self._blobs.current

        def find() -> list[str]:
            return [key for key in blobs.store(store).names() if blobs.written_before(key)]

        def discard(connection: sqlite3.Connection) -> None:
            known = {key for (key,) in connection.execute(
                "SELECT key FROM chunk WHERE store = ?", (store,))}  # fmt: skip
            connection.executemany(
                "INSERT OR IGNORE INTO garbage VALUES (?, ?)",
                [(store, key) for key in orphans if key not in known],
            )

        if store != blobs.local:
            return
        try:
            if orphans := await self._lanes.run(blobs.lane(store), find):
                await self._committer.change(discard)
                self.sweep()
        except Exception as error:
            log.warning("blobs of an earlier kernel are left behind: %s", error)


def _keys(connection: sqlite3.Connection, store: int) -> list[str]:
    rows = connection.execute("SELECT key FROM garbage WHERE store = ? LIMIT ?", (store, _BATCH))
    return [key for (key,) in rows]
