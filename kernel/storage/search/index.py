"""The index of files: index.db with its thread, kept up with the text files of homes.

The index can be computed from the files, so it is not durable: a lost or damaged one is rebuilt.
Writes do not wait for it; a search (search.py) waits until all acknowledged writes are indexed.
Mounted folders are indexed by mount_refresh.py. Passages get their vectors in the background: one
small batch at a time, homes and folders taking turns; the backlog is in index.db.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.task import Promise, detach
from aios.kernel.loop.worker import Worker
from aios.kernel.storage.db.commit import Committer
from aios.kernel.storage.files.blobs import Blobs
from aios.kernel.storage.files.tree import File
from aios.syscalls.errors import ModelUnavailable, ResourceExhausted, StorageUnavailable

from . import home_files
from .passages import Passages

log = logging.getLogger("aios.storage")

T = TypeVar("T")

_QUIET_S = 0.5
"""Time that changes are gathered, so that a burst of writes is not slowed down."""
_FILES_AT_ONCE = 64
_EMBED_AT_ONCE = 32
"""Passages embedded in one batch."""


class Embedder(Protocol):
    """Texts to vectors, in another process."""

    def embed(
        self, texts: Sequence[str], kind: Literal["passage", "query"] = "passage"
    ) -> Promise[list[bytes]]:
        """Return for each text the float32 values of its vector, all of one length."""


class _RebuiltError(StorageUnavailable):
    """The index was emptied because it was damaged."""


class Index:
    """Keeps index.db up with the files of homes, and lets others use it."""

    def __init__(self, loop: Loop, path: Path, committer: Committer) -> None:
        self._loop, self._path, self._committer = loop, path, committer
        self._worker = Worker(loop, "index")
        self._fetcher = Worker(loop, "texts")
        self._passages: Passages | None = None
        self.blobs: Blobs | None = None
        self.embedder: Embedder | None = None
        self._seq = 0
        self._dirty: dict[int, int] = {}
        """Files that have changed, with the number of the change."""
        self._waiting: list[tuple[int, Promise[None]]] = []
        """Promises for the index to have all changes up to a number."""
        self._timer: Timer | None = None
        self._busy = True
        """Files are being indexed, or index.db is not open yet."""
        self._embedding = False
        self._closed = False

    def open(self, blobs: Blobs) -> None:
        """Open or create index.db, and index what it lacks."""
        self.blobs = blobs
        detach(self._open())

    async def _open(self) -> None:
        try:
            known = await self._worker.run(self._open_passages)
        except Exception as error:
            log.error("search is not available: %s", error)
            self._busy = False
            self._tell()
            return
        await self._find_stale(known)
        self._busy = False
        self._step()

    def _open_passages(self) -> dict[int, float]:
        self._passages = Passages(self._path)
        return self._passages.known()

    async def _find_stale(self, known: dict[int, float]) -> None:
        """Mark what differs from the files in meta.db. ``known``: the indexed files."""
        try:
            stale = await self._committer.read(
                lambda connection: home_files.stale(connection, known)
            )
        except Exception as error:
            log.warning("search does not know which files have changed: %s", error)
            return
        for number in stale:
            self._mark(number)
        self._waiting = [(self._seq, promise) for _, promise in self._waiting]

    async def _refill(self) -> None:
        await self._find_stale({})
        self._step()

    def close(self, until_s: float) -> None:
        """End. What is not indexed by then is found at the next start."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self._passages:
            self._worker.run(self._passages.close)
        self._fetcher.close(max(0.0, until_s - self._loop.now()))
        self._worker.close()

    async def ask(self, job: Callable[[Passages], T]) -> T:
        """Do something with index.db, in its thread. An index found damaged is rebuilt."""
        try:
            return await self._worker.run(lambda: self._do(job))
        except _RebuiltError:
            detach(self._refill())
            raise

    def _do(self, job: Callable[[Passages], T]) -> T:
        if self._passages is None:
            raise StorageUnavailable("search is not available", "the kernel's log says why")
        try:
            return job(self._passages)
        except sqlite3.Error as error:
            if self._passages.emptied_by(error):
                raise _RebuiltError(
                    "the index for search was damaged and is being rebuilt", "search again"
                ) from None
            raise

    async def rebuild(self, reason: str) -> None:
        """Empty the index, and start to fill it again."""
        try:
            await self.ask(lambda passages: passages.empty(reason))
        finally:
            detach(self._refill())

    # ------------------------------------------------------------------ keeping up with homes

    def changed(self, changed: Sequence[File]) -> None:
        """Note that files have been written, moved or deleted."""
        for file in changed:
            if file.kind == "file":
                self._mark(file.id)
        if not self._timer or self._timer.cancelled:
            self._timer = self._loop.after(_QUIET_S, self._step)

    def _mark(self, number: int) -> None:
        self._seq += 1
        self._dirty[number] = self._seq

    def when_current(self) -> Promise[None]:
        """Return a promise that is resolved when all changes before now are indexed."""
        promise: Promise[None] = Promise()
        self._waiting.append((self._seq, promise))
        self._step()
        return promise

    def wake(self) -> None:
        """Note that there is an embedder, or that there are more passages."""
        self._step()

    def _step(self) -> None:
        """Start what there is to do, unless it is under way."""
        if self._busy or self._closed:
            return
        self._tell()
        if self._dirty:
            self._busy = True
            detach(self._catch_up())
        elif not self._embedding and self.embedder and self._passages:
            self._embedding = True
            detach(self._embed(self.embedder))

    async def _catch_up(self) -> None:
        """Index changed files, batch by batch, until there are no more."""
        while self._dirty and not self._closed:
            batch = dict(list(self._dirty.items())[:_FILES_AT_ONCE])
            try:
                await self._index(batch)
            except Exception as error:  # until they change again, or the next start
                log.warning("search leaves out %d files: %s", len(batch), error)
            for number, seq in batch.items():
                if self._dirty.get(number) == seq:
                    del self._dirty[number]
            self._tell()
        self._busy = False
        self._step()

    async def _index(self, batch: dict[int, int]) -> None:
        """Index the first of these files, and leave the others out of the batch."""
        loaded = await self._committer.read(lambda c: home_files.load(c, batch))
        for number in batch.keys() - {each.id for each in loaded}:
            del batch[number]
        blobs = self.blobs
        if self._closed or blobs is None:
            return
        documents = await self._fetcher.run(
            lambda: [home_files.document(blobs, each) for each in loaded]
        )
        if not self._closed:
            await self.ask(lambda passages: passages.put(documents))

    def _tell(self) -> None:
        """Resolve the promises for what is indexed by now."""
        floor = min(self._dirty.values(), default=self._seq + 1)
        ready = [promise for seq, promise in self._waiting if seq < floor]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] >= floor]
        for promise in ready:
            promise.resolve(None)

    async def _embed(self, embedder: Embedder) -> None:
        """Give passages their vectors, batch by batch, until none lacks one."""
        try:
            while rows := await self.ask(lambda passages: passages.without_vector(_EMBED_AT_ONCE)):
                if self._closed:
                    break
                vectors = await embedder.embed([text for _, text in rows])
                if self._closed:
                    break
                await self.ask(
                    lambda passages, rows=rows, vectors=vectors: passages.put_vectors(rows, vectors)  # type: ignore[misc]
                )
        except (ModelUnavailable, ResourceExhausted):
            pass  # the next change or search tries again
        except Exception as error:
            log.warning("passages stay without vectors: %s", error)
        self._embedding = False
