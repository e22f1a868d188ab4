"""The index of files: index.db and its thread, kept up with the text files of homes.

What is in it can be computed again, so it is not made to last: a lost or damaged one is made anew
from the files. Writes do not wait for it; a search (search.py) waits until all that was
acknowledged before it is in. Folders of the host are taken in by refresh.py. Embedding is
done elsewhere (``Embedder``), behind the scenes: one small batch at a time, homes and folders
taking turns, of each file the beginning only, and of what is no text nothing; what waits for it is
on the disk.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.kernel.storage.db.commit import Committer, Done
from aios.kernel.storage.files import chunks
from aios.kernel.storage.files import tree as files
from aios.kernel.storage.files.blobs import Blobs
from aios.kernel.storage.files.chunks import Source
from aios.kernel.storage.files.tree import File
from aios.syscalls.errors import AiosError, StorageUnavailable

from .passages import MOST_TEXT_BYTES, Document, Passages, text_of

log = logging.getLogger("aios.storage")

T = TypeVar("T")

_QUIET_S = 0.5
"""Changes are gathered for so long, so that a burst of writes is not slowed down."""
_FILES_AT_ONCE = 64
_BYTES_AT_ONCE = 1 << 20
"""Commits wait while so much is read."""
_EMBED_AT_ONCE = 32


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


class _MadeAnewError(StorageUnavailable):
    """The index has been emptied because it was damaged."""


class _Loaded(NamedTuple):
    """A file's row and its content; None: to be forgotten."""

    id: int
    file: File | None
    parts: list[bytes | Source]


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

            def compared(outcome: Outcome[list[int]]) -> None:
                self._busy = False
                self._compared(outcome)

            self._committer.view(lambda connection: _stale(connection, known), compared)

        self._worker.submit(self._open, opened)

    def _compared(self, outcome: Outcome[list[int]]) -> None:
        for number in [] if outcome.error else outcome.result():
            self._mark(number)
        self._waiting = [(self._seq, action) for _, action in self._waiting]
        self._step()

    def _open(self) -> dict[int, float]:
        self._passages = Passages(self._path)
        return self._passages.known()

    def close(self, until_s: float) -> None:
        """End; what is not in yet is found at the next start, and so is what a store has not given
        until then."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self._passages:
            self._worker.submit(self._passages.close, lambda _: None)
        self._fetcher.close(max(0.0, until_s - time.monotonic()))
        self._worker.close()

    def ask(self, job: Callable[[Passages], T], done: Done[T]) -> None:
        """Do something with index.db, in its thread. Damage that it meets is its end."""

        def work() -> T:
            if self._passages is None:
                raise StorageUnavailable("search is not available", "the kernel's log says why")
            try:
                return job(self._passages)
            except sqlite3.Error as error:
                if self._passages.made_anew(error):
                    raise _MadeAnewError(
                        "the index for search was damaged and is made anew", "search again"
                    ) from None
                raise

        def worked(outcome: Outcome[T]) -> None:
            if isinstance(outcome.error, _MadeAnewError):
                self._refill()
            done(outcome)

        self._worker.submit(work, worked)

    def begin_anew(self, reason: str, done: Done[None]) -> None:
        """Empty it, whatever is in it, and begin to fill it again."""

        def emptied(outcome: Outcome[None]) -> None:
            self._refill()
            done(outcome)

        self.ask(lambda passages: passages.begin_anew(reason), emptied)

    def _refill(self) -> None:
        self._committer.view(lambda connection: _stale(connection, {}), self._compared)

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

    def when_current(self, action: Callable[[], None]) -> Callable[[], None]:
        """As soon as all that was changed before now is in; not any more when what is returned has
        been called."""
        self._waiting.append((self._seq, action))
        self._step()

        def off() -> None:
            self._waiting = [waiting for waiting in self._waiting if waiting[1] is not action]

        return off

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
            self.ask(lambda passages: passages.put(outcome.result()), applied)

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
        return Document(file.id, file.owner, file.version, file.changed, text_of(data))

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
            self.ask(lambda passages: passages.put_vectors(rows, got.result()), kept)

        def kept(outcome: Outcome[None]) -> None:
            self._embedding = False
            if outcome.error:
                log.warning("vectors were not kept: %s", outcome.error)
            else:
                self._embed()

        self.ask(lambda passages: passages.without_vector(_EMBED_AT_ONCE), chosen)


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
