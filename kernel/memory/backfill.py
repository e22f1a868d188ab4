"""Gives notes their vectors in the background: batch by batch from the stores to the embedder.

The stores are the queue, so nothing is lost and no backlog is in RAM. One batch is under way at a
time. Scopes that a search waits for go first. While notes are being added there is a pause after
each batch, so that adding is not slowed down. When the embedder fails, waiting searches continue,
and the rest waits for the next note or search.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.task import Promise, detach
from aios.kernel.loop.worker import Worker
from aios.kernel.retrieval.embedder import BATCH_TEXTS, Embedder
from aios.kernel.retrieval.vectors import VectorCache, pack

from .file import lasting
from .store import NoteStore, Unembedded

log = logging.getLogger("aios.memory")

QUIET_S = 0.2
"""Time without additions before notes that no search waits for get their vectors."""

Group = tuple[bool, int]
"""The vectors of a scope: lasting or not, and its number in that store."""


class _Wish(NamedTuple):
    """Scopes whose notes a search waits for."""

    scopes: Sequence[str]
    log: bool
    granted: Promise[None]


class _Batch(NamedTuple):
    store: NoteStore
    texts: list[Unembedded]


class Backfill:
    """All calls in the kernel's thread; stores are used in the worker's."""

    def __init__(
        self,
        loop: Loop,
        worker: Worker,
        embedder: Embedder,
        stores: Sequence[NoteStore],
        vectors: VectorCache[Group],
    ) -> None:
        self._loop, self._added_s = loop, 0.0
        self._pause: Timer | None = None
        self._resumed: Promise[None] | None = None
        self._worker, self._embedder, self._stores = worker, embedder, stores
        self._vectors = vectors
        self._wishes: deque[_Wish] = deque()
        self._working = self._stale = False

    def added(self) -> None:
        """Note that a note without a vector was added."""
        self._added_s = self._loop.now()
        self.kick()

    def kick(self) -> None:
        """Look for notes without a vector."""
        if self._embedder.unavailable():
            self._let_go()
        elif self._working:
            self._stale = True
        else:
            self._working = True
            detach(self._work())

    def complete(self, scopes: Sequence[str], log: bool) -> Promise[None]:
        """Do these scopes first. The promise is resolved when all their notes have vectors, or the
        embedder fails."""
        wish = _Wish(scopes, log, Promise())
        self._wishes.append(wish)
        self._resume()
        self.kick()
        return wish.granted

    async def _work(self) -> None:
        """Embed batch by batch until no note lacks a vector."""
        try:
            while True:
                await self._quiet()
                wish = self._wishes[0] if self._wishes else None
                self._stale = False
                batch = await self._worker.run(lambda wish=wish: self._next_batch(wish))  # type: ignore[misc]
                if batch:
                    await self._embed(batch)
                elif wish:
                    self._grant(wish)
                elif not self._wishes and not self._stale:
                    break
        except Exception as error:
            log.warning("notes stay without vectors: %s", error)
            self._working = False
            self._let_go()
        else:
            self._working = False

    async def _quiet(self) -> None:
        """Wait while notes are being added, unless a search waits."""
        if self._wishes or self._loop.now() - self._added_s > QUIET_S:
            return
        self._resumed = Promise()
        self._pause = self._loop.after(QUIET_S, self._resume)
        await self._resumed

    def _resume(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed and self._pause:
            self._pause.cancel()
            resumed.resolve(None)

    def _next_batch(self, wish: _Wish | None) -> _Batch | None:
        """Return notes without vectors, of a wish's scopes or of all. In the worker's thread."""
        scopes, with_log = (wish.scopes, wish.log) if wish else (None, False)
        kinds = {lasting(scope) for scope in scopes} if scopes else {False, True}
        for store in self._stores:
            if store.lasting in kinds:
                texts = store.reading(
                    lambda store=store: store.unembedded(scopes, with_log, BATCH_TEXTS)  # type: ignore[misc]
                )
                if texts:
                    return _Batch(store, texts)
        return None

    async def _embed(self, batch: _Batch) -> None:
        vectors = await self._embedder.embed([text.text for text in batch.texts])
        pairs = list(zip(batch.texts, map(pack, vectors), strict=True))
        model = self._embedder.model
        await self._worker.run(lambda: self._keep(batch.store, model, pairs))

    def _keep(self, store: NoteStore, model: str, pairs: list[tuple[Unembedded, bytes]]) -> None:
        """Store vectors, and take them over into RAM. In the worker's thread."""
        if store.doing(lambda: store.adopt_model(model)):
            self._vectors.clear()
        for row, packed in store.doing(lambda: store.set_vectors(pairs), soft=True):
            if found := store.scope_of(row):
                number, kind = found
                self._vectors.put((store.lasting, number), [(row, kind, packed)])

    def _grant(self, wish: _Wish) -> None:
        if wish in self._wishes:
            self._wishes.remove(wish)
            wish.granted.resolve(None)

    def _let_go(self) -> None:
        wishes = list(self._wishes)
        self._wishes.clear()
        for wish in wishes:
            wish.granted.resolve(None)
