"""Search in homes: which passages of text files have the words, or the meaning, of a query.

Owns index.db and its thread. What is in it can be computed again, so it is not made to last: a lost
or damaged one is made anew from the files. Writes do not wait for it; a search waits until all that
was acknowledged before it is in. Embedding is done elsewhere (``Embedder``), behind the scenes: one
small batch at a time, homes taking turns, of each file the beginning only, and of what is no text
nothing; what waits for it is on the disk. Without it, searches are by keyword and say so.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from aios.syscalls.errors import AiosError, StorageUnavailable
from aios.syscalls.storage_types import FsFound, FsSearch, SearchHit

from . import storage_chunks as chunks
from . import storage_files as files
from .loop import Loop, Timer
from .storage_blobs import Blobs
from .storage_chunks import Source
from .storage_commit import Committer, Done
from .storage_files import File
from .storage_passages import Document, Found, Passages
from .storage_paths import Place
from .worker import Outcome, Worker

log = logging.getLogger("aios.storage")

MOST_TEXT_BYTES = 1 << 20
"""Of a file, from its beginning, that is searched."""
_QUIET_S = 0.5
"""Changes are gathered for so long, so that a burst of writes is not slowed down."""
_FILES_AT_ONCE = 64
_BYTES_AT_ONCE = 1 << 20
"""Commits wait while so much is read."""
_EMBED_AT_ONCE = 32
_NO_MODEL = "searched by keyword: there is no embedding model for search by meaning"


class Embedder(Protocol):
    """Texts to vectors, in another process. ``done`` runs in the kernel's thread."""

    def embed(
        self,
        texts: Sequence[str],
        done: Callable[[Outcome[list[bytes]]], None],
        *,
        kind: Literal["passage", "query"] = "passage",
    ) -> None:
        """For each text the float32 values of its vector, all of one length."""


class _Loaded(NamedTuple):
    """A file's row and its content; None: to be forgotten."""

    id: int
    file: File | None
    parts: list[bytes | Source]


class Index:
    """Keeps index.db up with the files, and answers searches."""

    def __init__(self, loop: Loop, path: Path, committer: Committer, fetcher: Worker) -> None:
        self._loop, self._path = loop, path
        self._committer, self._fetcher = committer, fetcher
        self._worker = Worker(loop, "index")
        self._passages: Passages | None = None
        self.blobs: Blobs | None = None
        self.embedder: Embedder | None = None
        self._seq = 0
        self._dirty: dict[int, int] = {}
        """Files that have changed, with the number of the change."""
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._timer: Timer | None = None
        self._busy = True
        """A batch is under way, or it is not open yet."""
        self._embedding = False
        self._closed = False

    def open(self, blobs: Blobs) -> None:
        """Open index.db or make it anew, and find out what it lacks."""
        self.blobs = blobs

        def opened(outcome: Outcome[dict[int, float]]) -> None:
            if outcome.error:
                log.error("search is not available: %s", outcome.error)
                self._busy = False
                self._tell()
                return
            known = outcome.result()
            self._committer.view(lambda connection: _stale(connection, known), compared)

        def compared(outcome: Outcome[list[int]]) -> None:
            self._busy = False
            for number in [] if outcome.error else outcome.result():
                self._mark(number)
            self._waiting = [(self._seq, action) for _, action in self._waiting]
            self._step()

        self._worker.submit(self._open, opened)

    def _open(self) -> dict[int, float]:
        self._passages = Passages(self._path)
        return self._passages.known()

    def close(self) -> None:
        """End; what is not in yet is found at the next start."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self._passages:
            self._worker.submit(self._passages.close, lambda _: None)
        self._worker.close()

    # ------------------------------------------------------------------ keeping up

    def changed(self, changed: Sequence[File]) -> None:
        """These have been written, moved or deleted."""
        for file in changed:
            if file.kind == "file":
                self._mark(file.id)
        if not self._timer or self._timer.cancelled:
            self._timer = self._loop.at(time.monotonic() + _QUIET_S, self._step)

    def _mark(self, number: int) -> None:
        self._seq += 1
        self._dirty[number] = self._seq

    def when_current(self, action: Callable[[], None]) -> None:
        """As soon as all that was changed before now is in."""
        self._waiting.append((self._seq, action))
        self._step()

    def _step(self) -> None:
        if self._busy or self._closed:
            return
        self._tell()
        if not self._dirty:
            self._embed()
            return
        self._busy = True
        batch = dict(list(self._dirty.items())[:_FILES_AT_ONCE])
        self._committer.view(lambda c: _load_some(c, batch), self._loaded(batch))

    def _loaded(self, batch: dict[int, int]) -> Done[list[_Loaded]]:
        def loaded(outcome: Outcome[list[_Loaded]]) -> None:
            if outcome.error or self._closed:
                self._give_up(batch, outcome.error)
                return
            taken = outcome.result()
            for number in batch.keys() - {each.id for each in taken}:
                del batch[number]
            self._fetcher.submit(lambda: [self._document(each) for each in taken], fetched)

        def fetched(outcome: Outcome[list[Document]]) -> None:
            if outcome.error or self._closed:
                self._give_up(batch, outcome.error)
                return
            self._worker.submit(lambda: self._put(outcome.result()), applied)

        def applied(outcome: Outcome[None]) -> None:
            if outcome.error:
                self._give_up(batch, outcome.error)
                return
            self._finish(batch)

        return loaded

    def _finish(self, batch: dict[int, int]) -> None:
        for number, seq in batch.items():
            if self._dirty.get(number) == seq:
                del self._dirty[number]
        self._busy = False
        self._step()

    def _give_up(self, batch: dict[int, int], error: Exception | None) -> None:
        """These files are not searched until they change again or the kernel starts anew."""
        if error:
            log.warning("search leaves out %d files: %s", len(batch), error)
        self._finish(batch)

    def _document(self, loaded: _Loaded) -> Document:
        """Its text. What cannot be read or is no text has none."""
        file = loaded.file
        if file is None:
            return Document(loaded.id, "", 0, 0.0, "")
        assert self.blobs
        try:
            data = b"".join(
                part if isinstance(part, bytes)
                else part.take(self.blobs.store(part.store).get(part.key), file.path)
                for part in loaded.parts
            )  # fmt: skip
        except (AiosError, KeyError) as error:
            log.warning("search leaves out %s of %s: %s", file.path, file.owner, error)
            data = b""
        return Document(file.id, file.owner, file.version, file.changed, _text(data))

    def _put(self, documents: Sequence[Document]) -> None:
        assert self._passages
        self._passages.put(documents)

    def _tell(self) -> None:
        """Those who wait for what is in by now."""
        floor = min(self._dirty.values(), default=self._seq + 1)
        ready = [action for seq, action in self._waiting if seq < floor]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] >= floor]
        for action in ready:
            action()

    # ------------------------------------------------------------------ meaning

    def wake(self) -> None:
        """There is an embedder now."""
        self._step()

    def _embed(self) -> None:
        if self.embedder is None or self._embedding or self._passages is None:
            return
        embedder, self._embedding = self.embedder, True

        def chosen(outcome: Outcome[list[tuple[int, str]]]) -> None:
            if outcome.error:
                log.warning("passages are not embedded: %s", outcome.error)
            rows = [] if outcome.error else outcome.result()
            if not rows or self._closed:
                self._embedding = False
                return
            embedder.embed([text for _, text in rows], lambda got: embedded(rows, got))

        def embedded(rows: list[tuple[int, str]], got: Outcome[list[bytes]]) -> None:
            if got.error or self._closed:
                self._embedding = False
                return
            numbers = [number for number, _ in rows]
            self._worker.submit(lambda: self._keep(numbers, got.result()), kept)

        def kept(outcome: Outcome[None]) -> None:
            self._embedding = False
            if outcome.error:
                log.warning("vectors were not kept: %s", outcome.error)
            else:
                self._embed()

        passages = self._passages
        self._worker.submit(lambda: passages.without_vector(_EMBED_AT_ONCE), chosen)

    def _keep(self, numbers: Sequence[int], vectors: Sequence[bytes]) -> None:
        assert self._passages
        self._passages.put_vectors(numbers, vectors)

    # ------------------------------------------------------------------ searching

    def search(self, place: Place, body: FsSearch, done: Done[FsFound]) -> None:
        """The best passages below a place of a home."""
        embedder = self.embedder
        if body.mode == "keyword" or embedder is None:
            note = _NO_MODEL if embedder is None and body.mode == "semantic" else ""
            self.when_current(lambda: self._look(place, body, None, note, done))
            return

        def embedded(outcome: Outcome[list[bytes]]) -> None:
            note = f"searched by keyword: {outcome.error}" if outcome.error else ""
            vector = None if outcome.error else outcome.result()[0]
            self.when_current(lambda: self._look(place, body, vector, note, done))

        embedder.embed([body.query], embedded, kind="query")

    def _look(
        self, place: Place, body: FsSearch, vector: bytes | None, note: str, done: Done[FsFound]
    ) -> None:
        mode = "keyword" if vector is None else "semantic" if body.mode == "semantic" else "mixed"

        def chosen(outcome: Outcome[list[int] | None]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
                return
            among = None if outcome.result() is None else json.dumps(outcome.result())
            self._worker.submit(lambda: find(among), found)

        def find(among: str | None) -> list[Found]:
            if self._passages is None:
                raise StorageUnavailable("search is not available", "the kernel's log says why")
            return self._passages.find(place.owner, body.query, vector, mode, among, body.limit)

        def found(outcome: Outcome[list[Found]]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
                return
            self._committer.view(lambda c: _hits(c, place, outcome.result()), named)

        def named(outcome: Outcome[list[SearchHit]]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
            else:
                done(Outcome(FsFound(outcome.result(), mode, note), None))  # type: ignore[arg-type]

        self._committer.view(lambda c: _below(c, place), chosen)


# ------------------------------------------------------------------------------ on meta.db


def _stale(connection: sqlite3.Connection, known: dict[int, float]) -> list[int]:
    """Files that the index has not, or not as they are; and those that are gone."""
    rows = dict(connection.execute(
        "SELECT id, changed FROM file WHERE live = 1 AND kind = 'file'"))  # fmt: skip
    return [n for n in rows.keys() | known.keys() if rows.get(n) != known.get(n)]


def _load_some(connection: sqlite3.Connection, numbers: Iterable[int]) -> list[_Loaded]:
    """The first of these files, as many as may be read at once."""
    taken: list[_Loaded] = []
    size = 0
    for number in numbers:
        taken.append(_load(connection, number))
        file = taken[-1].file
        size += min(file.size, MOST_TEXT_BYTES) if file else 0
        if size >= _BYTES_AT_ONCE:
            break
    return taken


def _load(connection: sqlite3.Connection, number: int) -> _Loaded:
    row = connection.execute(
        "SELECT owner, parent, name FROM file WHERE id = ? AND live = 1 AND kind = 'file'",
        (number,),
    ).fetchone()
    try:
        file = files.find(connection, row[0], f"{row[1]}/{row[2]}".lstrip("/")) if row else None
    except AiosError as error:
        log.warning("search leaves out a file of %s: %s", row[0], error)
        file = None
    if file is None or file.id != number:
        return _Loaded(number, None, [])
    try:
        end = min(file.size, MOST_TEXT_BYTES)
        found = chunks.sources(connection, number, file.version, 0, end, file.path)
        parts = [s if s.data is None else s.take(s.data, file.path) for s in found]
    except AiosError as error:
        log.warning("search leaves out %s of %s: %s", file.path, file.owner, error)
        parts = []
    return _Loaded(number, file, parts)


def _below(connection: sqlite3.Connection, place: Place) -> list[int] | None:
    """Files that a search is restricted to; None: the whole home."""
    if not place.path:
        return None
    file = files.get(connection, place.owner, place.path)
    if file.kind == "file":
        return [file.id]
    found = files.below(connection, place.owner, place.path, live=True, whole=True)
    return [f.id for f in found]


def _hits(connection: sqlite3.Connection, place: Place, found: Sequence[Found]) -> list[SearchHit]:
    """Under the files' names as they are now."""
    hits = []
    for each in found:
        row = connection.execute(
            "SELECT parent, name FROM file WHERE id = ? AND owner = ? AND live = 1",
            (each.file, place.owner),
        ).fetchone()
        if row and math.isfinite(each.score):
            path = place.shown(f"{row[0]}/{row[1]}".lstrip("/"))
            hits.append(SearchHit(path, each.version, each.offset, each.text, each.score))
    return hits


def _text(data: bytes) -> str:
    """Decoded when it is text; a character cut off at the end does not count."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4 or len(data) < MOST_TEXT_BYTES:
            return ""
        text = data[: error.start].decode("utf-8")
    return "" if "\0" in text else text
