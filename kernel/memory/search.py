"""Finding notes: by words, by meaning, or both with their ranks fused.

A search is a chain: the query's vector (when meaning is wanted), a short wait for notes that have
none yet, then one job in the worker's thread. Whatever fails on the way to meaning leaves a search
by words, and the reply says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.kernel.retrieval.embedder import Embedder
from aios.syscalls.types.memory import Hit, Note, SearchMode, SearchReply, SearchRequest

from .backfill import Backfill, Wish
from .file import lasting
from .store import NoteStore
from .vectors import Vectors

FEW = 32
"""A search waits for so many notes to get their vectors; it does not wait for more."""
_FUSION = 60
_CANDIDATES = 50
"""Of each ranking that are fused."""

Done = Callable[[Outcome[SearchReply]], None]
_Key = tuple[bool, int]
"""Whether of the lasting store, and the row."""


@dataclass
class _Search:
    """One on its way."""

    request: SearchRequest
    scopes: Sequence[str]
    done: Done
    stores: Sequence[NoteStore]
    """Those that have the scopes."""
    vector: bytes | None = None
    why: str = ""


def fuse(rankings: Sequence[Sequence[_Key]]) -> list[tuple[_Key, float]]:
    """Reciprocal rank fusion: each ranking gives 1 / (60 + rank); best first."""
    scores: dict[_Key, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (_FUSION + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


class Searcher:
    """``stores``: the session's and the lasting one. All calls in the kernel's thread."""

    def __init__(
        self,
        worker: Worker,
        embedder: Embedder,
        stores: Sequence[NoteStore],
        vectors: Vectors,
        backfill: Backfill,
    ) -> None:
        self._worker, self._embedder, self._stores = worker, embedder, stores
        self._vectors, self._backfill = vectors, backfill

    def search(self, request: SearchRequest, scopes: Sequence[str], done: Done) -> None:
        """``scopes``: in full. The outcome is an AiosError when the notes cannot be read."""
        kinds = {lasting(scope) for scope in scopes}
        stores = [store for store in self._stores if store.lasting in kinds]
        search = _Search(request, scopes, done, stores)
        if request.mode == "keyword":
            self._find(search)
            return

        def embedded(got: Outcome[list[bytes]]) -> None:
            if got.value is None:
                search.why = f"{got.error.args[0] if got.error else 'no vector'}"
                self._find(search)
            else:
                search.vector = got.value[0]
                self._catch_up(search)

        self._embedder.embed([request.query], embedded, kind="query")

    def _catch_up(self, search: _Search) -> None:
        """Wait for notes without vectors when they are few, or the caller wants all."""
        request = search.request

        def counted(outcome: Outcome[int]) -> None:
            pending = outcome.value or 0
            if pending and (request.fresh or pending <= FEW):
                wish = Wish(search.scopes, request.log, lambda: self._find(search))
                self._backfill.complete(wish)
                return
            if pending:
                self._backfill.kick()
            self._find(search)

        self._worker.submit(lambda: self._pending(search), counted)

    def _pending(self, search: _Search) -> int:
        log = search.request.log
        return sum(
            store.reading(lambda store=store: store.pending(search.scopes, log))  # type: ignore[misc]
            for store in search.stores
        )

    def _find(self, search: _Search) -> None:
        model = self._embedder.model
        self._worker.submit(lambda: self._job(search, model), search.done)

    def _job(self, search: _Search, model: str) -> SearchReply:
        """In the worker's thread."""
        request, most = search.request, max(_CANDIDATES, search.request.k)
        by_words: list[_Key] = []
        by_meaning: list[_Key] = []
        cosines: dict[_Key, float] = {}
        if request.mode != "semantic" or search.vector is None:
            by_words = _merged([
                [((store.lasting, row), score) for row, score in store.reading(
                    lambda store=store: store.matches(  # type: ignore[misc]
                        request.query, search.scopes, most, request.log))]
                for store in search.stores
            ], by_rank=True)  # fmt: skip
        if search.vector is not None:
            near = [self._nearest(store, search, most, model) for store in search.stores]
            by_meaning = _merged(near, by_rank=False)
            cosines = dict(pair for found in near for pair in found)
        ranked = fuse([by_words[:most], by_meaning[:most]])[: request.k]
        notes = self._notes([key for key, _ in ranked])
        hits = [
            Hit(notes[key], score, _rank(by_words, key), _rank(by_meaning, key), cosines.get(key))
            for key, score in ranked
            if key in notes
        ]
        mode: SearchMode = "keyword"
        if search.vector is not None:
            mode = "semantic" if request.mode == "semantic" else "mixed"
        pending = self._pending(search) if search.vector is not None else 0
        why = f"searched by words: {search.why}" if search.why else ""
        return SearchReply(hits, mode, why, pending)

    def _nearest(
        self, store: NoteStore, search: _Search, most: int, model: str
    ) -> list[tuple[_Key, float]]:
        assert search.vector is not None
        vector = search.vector
        if store.model != model and store.doing(lambda: store.adopt_model(model)):
            self._vectors.forget_all(store)
        found = store.reading(
            lambda: self._vectors.nearest(store, search.scopes, vector, most, search.request.log)
        )
        return [((store.lasting, row), score) for row, score in found]

    def _notes(self, keys: Sequence[_Key]) -> dict[_Key, Note]:
        notes: dict[_Key, Note] = {}
        for store in self._stores:
            rows = [row for lasting, row in keys if lasting == store.lasting]
            if rows:
                many = partial(store.many, rows)
                notes |= {(store.lasting, row): n for row, n in store.reading(many).items()}
        return notes


def _merged(lists: Sequence[Sequence[tuple[_Key, float]]], *, by_rank: bool) -> list[_Key]:
    """One ranking of several. Cosines compare across stores; bm25 scores do not, ranks do."""
    entries = [
        ((rank, -score) if by_rank else (0, -score), key)
        for found in lists
        for rank, (key, score) in enumerate(found)
    ]
    return [key for _, key in sorted(entries)]


def _rank(ranking: Sequence[_Key], key: _Key) -> int | None:
    return ranking.index(key) + 1 if key in ranking else None
