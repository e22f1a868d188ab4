"""Gives notes their vectors, in the background: batch by batch from the stores to the embedder.

The stores are the queue, so nothing is lost and nothing piles up in RAM. One batch is under way at
a time; searches that wait for their scopes go first; while notes are being added there is a pause
after each batch, so that adding is not slowed down. When the embedder fails, those who wait are
let go, and the rest waits for the next note or search.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.kernel.retrieval.embedder import BATCH_TEXTS, Embedder

from .file import lasting
from .store import NoteStore, Unembedded
from .vectors import Vectors, pack

log = logging.getLogger("aios.memory")

QUIET_S = 0.2
"""After an addition, before notes that nobody waits for are given their vectors."""


class Wish(NamedTuple):
    """Scopes whose notes shall all have vectors; then ``done``, whether they have or not."""

    scopes: Sequence[str]
    log: bool
    done: Callable[[], None]


@dataclass
class _Batch:
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
        vectors: Vectors,
    ) -> None:
        self._loop, self._added_s = loop, 0.0
        self._pause: Timer | None = None
        self._worker, self._embedder, self._stores = worker, embedder, stores
        self._vectors = vectors
        self._wishes: deque[Wish] = deque()
        self._working = self._stale = False

    def added(self) -> None:
        """There is another note without a vector."""
        self._added_s = time.monotonic()
        self.kick()

    def kick(self) -> None:
        """There may be notes without a vector."""
        if self._embedder.unavailable():
            self._let_go()
        elif self._working:
            self._stale = True
        else:
            self._working = True
            self._next()

    def complete(self, wish: Wish) -> None:
        """Do these scopes first."""
        self._wishes.append(wish)
        if self._pause:
            self._resume()
        self.kick()

    def _next(self) -> None:
        """Go on now, or after a pause."""
        if self._wishes or time.monotonic() - self._added_s > QUIET_S:
            self._fetch()
        else:
            self._pause = self._loop.at(time.monotonic() + QUIET_S, self._resume)

    def _resume(self) -> None:
        if self._pause:
            self._pause.cancel()
            self._pause = None
            self._fetch()

    def _fetch(self) -> None:
        wish = self._wishes[0] if self._wishes else None
        self._stale = False

        def job() -> _Batch | None:
            scopes, with_log = (wish.scopes, wish.log) if wish else (None, False)
            kinds = {lasting(scope) for scope in scopes} if scopes else {False, True}
            for store in self._stores:
                if store.lasting not in kinds:
                    continue
                texts = store.reading(
                    lambda store=store: store.unembedded(scopes, with_log, BATCH_TEXTS)  # type: ignore[misc]
                )
                if texts:
                    return _Batch(store, texts)
            return None

        self._worker.submit(job, lambda outcome: self._fetched(wish, outcome))

    def _fetched(self, wish: Wish | None, outcome: Outcome[_Batch | None]) -> None:
        if outcome.error:
            self._stop(f"cannot read notes: {outcome.error}")
        elif outcome.value:
            batch = outcome.value
            self._embedder.embed(
                [text.text for text in batch.texts], lambda got: self._embedded(batch, got)
            )
        elif wish:
            if wish in self._wishes:
                self._wishes.remove(wish)
                wish.done()
            self._fetch()
        elif self._wishes or self._stale:
            self._next()
        else:
            self._working = False

    def _embedded(self, batch: _Batch, got: Outcome[list[bytes]]) -> None:
        if got.value is None:
            self._stop(f"notes stay without vectors: {got.error}")
            return
        pairs = list(zip(batch.texts, map(pack, got.value), strict=True))
        store, model = batch.store, self._embedder.model

        def job() -> None:
            if store.doing(lambda: store.adopt_model(model)):
                self._vectors.forget_all(store)
            self._vectors.add(store, store.doing(lambda: store.set_vectors(pairs), soft=True))

        def stored(outcome: Outcome[None]) -> None:
            if outcome.error:
                self._stop(f"cannot keep vectors: {outcome.error}")
            else:
                self._next()

        self._worker.submit(job, stored)

    def _stop(self, reason: str) -> None:
        log.warning("%s", reason)
        self._working = False
        self._let_go()

    def _let_go(self) -> None:
        wishes = list(self._wishes)
        self._wishes.clear()
        for wish in wishes:
            wish.done()
