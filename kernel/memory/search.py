"""Search in notes: by words, by meaning, or by both with their rankings fused.

A search gets the query's vector (when meaning is wanted), waits shortly for notes that have no
vector yet, then does one job in the worker's thread. If meaning fails, it searches by words, and
the reply says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from aios.kernel.loop.worker import Worker
from aios.kernel.retrieval.embedder import Embedder
from aios.kernel.retrieval.fusion import fuse
from aios.kernel.retrieval.vectors import VectorCache
from aios.syscalls.errors import AiosError
from aios.syscalls.types.memory import Hit, Note, SearchMode, SearchReply, SearchRequest

from .backfill import Backfill, Group
from .file import lasting
from .store import NoteStore

FEW = 32
"""Notes without vectors that a search waits for; it does not wait for more."""
_CANDIDATES = 50
"""Notes of each ranking that are fused."""
_NOTE = 0
"""The kind of a note that is not of the interaction log."""

_Key = tuple[bool, int]
"""A note: in the lasting store or not, and its row."""


@dataclass
class _Search:
    """A search under way."""

    request: SearchRequest
    scopes: Sequence[str]
    stores: Sequence[NoteStore]
    """Those that have the scopes."""
    vector: bytes | None = None
    why: str = ""
    """Why there is no vector."""


class Searcher:
    """``stores``: the sessions' and the lasting one. All calls in the kernel's thread."""

    def __init__(
        self,
        worker: Worker,
        embedder: Embedder,
        stores: Sequence[NoteStore],
        vectors: VectorCache[Group],
        backfill: Backfill,
    ) -> None:
        self._worker, self._embedder, self._stores = worker, embedder, stores
        self._vectors, self._backfill = vectors, backfill

    async def search(self, request: SearchRequest, scopes: Sequence[str]) -> SearchReply:
        """Return the best notes of these scopes, named in full. Raises AiosError when the notes
        cannot be read."""
        kinds = {lasting(scope) for scope in scopes}
        search = _Search(request, scopes, [s for s in self._stores if s.lasting in kinds])
        if request.mode != "keyword":
            try:
                (search.vector,) = await self._embedder.embed([request.query], "query")
            except AiosError as error:
                search.why = error.message
            else:
                await self._catch_up(search)
        model = self._embedder.model
        return await self._worker.run(lambda: self._find(search, model))

    async def _catch_up(self, search: _Search) -> None:
        """Wait for notes without vectors when they are few, or the caller wants all."""
        request = search.request
        pending = await self._worker.run(lambda: self._pending(search))
        if pending and (request.fresh or pending <= FEW):
            await self._backfill.complete(search.scopes, request.log)
        elif pending:
            self._backfill.kick()

    def _pending(self, search: _Search) -> int:
        log = search.request.log
        return sum(
            store.reading(lambda store=store: store.pending(search.scopes, log))  # type: ignore[misc]
            for store in search.stores
        )

    # ------------------------------------------------------------------ in the worker's thread

    def _find(self, search: _Search, model: str) -> SearchReply:
        request, most = search.request, max(_CANDIDATES, search.request.k)
        by_words: list[_Key] = []
        cosines: dict[_Key, float] = {}
        if request.mode != "semantic" or search.vector is None:
            by_words = self._by_words(search, most)
        if search.vector is not None:
            cosines = self._by_meaning(search, search.vector, most, model)
        by_meaning = list(cosines)
        ranked = fuse([by_words, by_meaning])[: request.k]
        notes = self._notes([key for key, _ in ranked])
        hits = [
            Hit(notes[key], score, _rank(by_words, key), _rank(by_meaning, key), cosines.get(key))
            for key, score in ranked
            if key in notes
        ]
        if search.vector is None:
            return SearchReply(hits, "keyword", search.why and f"searched by words: {search.why}")
        mode: SearchMode = "semantic" if request.mode == "semantic" else "mixed"
        return SearchReply(hits, mode, "", self._pending(search))

    def _by_words(self, search: _Search, most: int) -> list[_Key]:
        """Return notes that have words of the query, best first. BM25 scores do not compare across
        stores, so the stores take turns."""
        query, log = search.request.query, search.request.log
        ranked = [
            (rank, (store.lasting, row))
            for store in search.stores
            for rank, row in enumerate(
                store.reading(lambda store=store: store.matches(query, search.scopes, most, log))  # type: ignore[misc]
            )
        ]
        return [key for _, key in sorted(ranked)][:most]

    def _by_meaning(
        self, search: _Search, vector: bytes, most: int, model: str
    ) -> dict[_Key, float]:
        """Return the nearest notes and their cosines, best first."""
        found: list[tuple[_Key, float]] = []
        for store in search.stores:
            if store.model != model and store.doing(lambda store=store: store.adopt_model(model)):  # type: ignore[misc]
                self._vectors.clear()
            near = store.reading(
                lambda store=store: list(itertools.islice(self._vectors.search(  # type: ignore[misc]
                    [(store.lasting, number) for number in store.numbers(search.scopes)],
                    vector, most, None if search.request.log else (_NOTE,),
                ), most))
            )  # fmt: skip
            found += [((store.lasting, row), cosine) for row, _, cosine in near]
        found.sort(key=lambda pair: -pair[1])
        return dict(found[:most])

    def _notes(self, keys: Sequence[_Key]) -> dict[_Key, Note]:
        notes: dict[_Key, Note] = {}
        for store in self._stores:
            rows = [row for lasting, row in keys if lasting == store.lasting]
            if rows:
                found = store.reading(lambda store=store, rows=rows: store.many(rows))  # type: ignore[misc]
                notes |= {(store.lasting, row): note for row, note in found.items()}
        return notes


def _rank(ranking: Sequence[_Key], key: _Key) -> int | None:
    return ranking.index(key) + 1 if key in ranking else None
