"""Content on its way in and out: small pieces through the database, large ones as blobs.

A blob is safe before
the commit that names it is tried; when that fails the blob is deleted again, and what a killed
kernel left behind is found by its name when the next one starts. Runs in the kernel's thread;
whatever blocks is handed to the lane of its store.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

from aios.kernel.loop.lanes import Lanes
from aios.kernel.loop.task import Outcome
from aios.kernel.storage.db.commit import Committer, Done
from aios.kernel.storage.db.schema import FILE_HINT
from aios.syscalls.errors import AiosError, StorageDamaged
from aios.syscalls.types.storage import FileInfo, FsData

from . import chunks, versions
from . import tree as files
from .blobs import Blobs
from .chunks import INLINE_BYTES, Piece, Source
from .paths import Place
from .quota import Limits
from .shares import require
from .tree import File

log = logging.getLogger("aios.storage")

T = TypeVar("T")

_SWEEP = 500


def shown(place: Place, file: File) -> FileInfo:
    """A row as the caller of a place sees it."""
    kind: Literal["file", "folder"] = "folder" if file.kind == "folder" else "file"
    return FileInfo(place.shown(file.path), kind, file.size, file.version, file.changed, file.by,
                    file.kind == "damaged")  # fmt: skip


def allow(connection: sqlite3.Connection, place: Place, agent: str, right: str) -> None:
    """Raises PermissionDenied when a place is another's and no grant covers it."""
    if place.kind == "shared" and agent != place.owner:
        require(connection, place.owner, place.path, agent, "write" if right != "read" else "read")


class Content:
    """Writes and reads of files in homes."""

    def __init__(
        self,
        committer: Committer,
        lanes: Lanes,
        limits: Limits,
        on_changed: Callable[[Sequence[File]], None],
    ) -> None:
        self._committer, self._lanes, self._limits = committer, lanes, limits
        self._on_changed = on_changed
        self.blobs: Blobs | None = None
        """Set when storage has been opened."""
        self.holds = 0
        """While a backup is made, no blob is deleted."""
        self._sweeping = set[int]()

    # ------------------------------------------------------------------ whole writes

    def write(
        self, place: Place, agent: str, data: bytes, append: bool, expect: int | None,
        done: Done[FileInfo],
    ) -> None:  # fmt: skip
        """Make a file's next version."""
        if len(data) <= INLINE_BYTES:
            self.commit(place, agent, chunks.inline(data), append, expect, done)
            return
        if self.stopped:
            done(Outcome(None, self.stopped))
            return

        def kept(outcome: Outcome[list[Piece]]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
            else:
                self.commit(place, agent, outcome.result(), append, expect, done)

        self.cut(data, kept)

    def cut(self, data: bytes, done: Done[list[Piece]]) -> None:
        """Make content into pieces, its blobs kept."""
        self._lanes.submit(
            self.stores().where(self.stores().current), lambda: self.stores().cut(data), done
        )

    def commit(
        self, place: Place, agent: str, pieces: Sequence[Piece], append: bool, expect: int | None,
        done: Done[FileInfo],
    ) -> None:  # fmt: skip
        def change(connection: sqlite3.Connection) -> tuple[File, bool]:
            allow(connection, place, agent, "write")
            file = files.write(
                connection, self._limits, place.owner, place.path, pieces, agent,
                append=append, expect=expect,
            )  # fmt: skip
            return file, chunks.has_garbage(connection)

        def committed(outcome: Outcome[tuple[File, bool]]) -> None:
            if outcome.error:
                if not self._in_doubt(outcome.error):
                    self.delete_blobs([(p.store, p.key) for p in pieces if p.data is None])
                done(Outcome(None, outcome.error))
                return
            file, garbage = outcome.result()
            done(Outcome(shown(place, file), None))
            self._on_changed([file])
            if garbage:
                self.sweep()

        self._committer.change(change, committed, place.shown())

    @property
    def stopped(self) -> AiosError | None:
        """Why no change is taken at all: then no blobs are made for one."""
        return self._committer.failure or self._committer.refusal

    def _in_doubt(self, error: Exception) -> bool:
        """Whether the disk may have a change that failed. Damage, and all that does not stop
        everything, was undone."""
        return self._committer.failure is not None and not isinstance(error, StorageDamaged)

    # ------------------------------------------------------------------ reads

    def read(
        self, place: Place, agent: str, offset: int, length: int, version: int | None,
        done: Done[FsData], tries: int = 2,
    ) -> None:  # fmt: skip
        """A piece of a version, its checksums verified."""

        def look(connection: sqlite3.Connection) -> tuple[FileInfo, list[bytes | Source]]:
            allow(connection, place, agent, "read")
            file, meant, size = versions.at_version(connection, place.owner, place.path, version)
            name = place.shown()
            start, end = min(offset, size), min(offset + length, size)
            found = chunks.sources(connection, file.id, meant, start, end, name)
            info = shown(place, file._replace(version=meant, size=size))
            return info, [s if s.data is None else s.take(s.data, name) for s in found]

        def looked(outcome: Outcome[tuple[FileInfo, list[bytes | Source]]]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
                return
            info, parts = outcome.result()
            if all(isinstance(part, bytes) for part in parts):
                done(Outcome(FsData(info, b"".join(parts)), None))  # type: ignore[arg-type]
                return
            self._lanes.submit(
                self._where(part.store for part in parts if not isinstance(part, bytes)),
                lambda: FsData(info, self._fetch(parts, info.path)), fetched,
            )  # fmt: skip

        def fetched(outcome: Outcome[FsData]) -> None:
            if isinstance(outcome.error, KeyError) and tries > 1:
                # pruned and deleted while we read: look again, it may have moved on
                self.read(place, agent, offset, length, version, done, tries - 1)
            elif isinstance(outcome.error, KeyError):
                done(Outcome(None, StorageDamaged(
                    f"{place.shown()}: a blob of its content is missing: {outcome.error}",
                    FILE_HINT,
                )))  # fmt: skip
            else:
                done(outcome)

        self._committer.view(look, looked, place.shown())

    def _fetch(self, parts: Sequence[bytes | Source], name: str) -> bytes:
        return b"".join(
            part if isinstance(part, bytes)
            else part.take(self.stores().store(part.store).get(part.key), name)
            for part in parts
        )  # fmt: skip

    def _where(self, stores: Iterable[int]) -> str:
        """What is waited for to reach all of these stores: one that is behind a URL, if any is."""
        blobs = self.stores()
        return blobs.where(max(stores, key=lambda store: bool(blobs.urls.get(store))))

    def stores(self) -> Blobs:
        assert self.blobs
        return self.blobs

    # ------------------------------------------------------------------ garbage

    def delete_blobs(self, names: Sequence[tuple[int, str]]) -> None:
        """Delete blobs that no commit has named."""

        def job() -> None:
            for store, key in names:
                self.stores().store(store).delete([key])

        if names:
            self._lanes.submit(self._where(store for store, _ in names), job,
                               lambda outcome: _warn(outcome, "left blobs behind"))  # fmt: skip

    def sweep(self) -> None:
        """Delete the blobs that commits have made garbage, of each store some at a time."""
        for store in self.stores().urls:
            self._sweep(store)

    def _sweep(self, store: int) -> None:
        if store in self._sweeping or self.holds:
            return
        self._sweeping.add(store)

        def listed(outcome: Outcome[list[tuple[str]]]) -> None:
            keys = [] if outcome.error else [key for (key,) in outcome.result()]
            if not keys or self.holds:
                self._sweeping.discard(store)
                return

            def deleted(outcome: Outcome[None]) -> None:
                if outcome.error:
                    self._sweeping.discard(store)
                    _warn(outcome, "will delete them later")
                else:
                    self._committer.change(forget, forgotten)

            def forget(connection: sqlite3.Connection) -> None:
                connection.executemany(
                    "DELETE FROM garbage WHERE store = ? AND key = ?",
                    [(store, key) for key in keys],
                )

            def forgotten(outcome: Outcome[None]) -> None:
                self._sweeping.discard(store)
                if not outcome.error and len(keys) == _SWEEP:
                    self._sweep(store)

            self._lanes.submit(
                self._where([store]), lambda: self.stores().store(store).delete(keys), deleted
            )

        self._committer.view(
            lambda connection: connection.execute(
                "SELECT key FROM garbage WHERE store = ? LIMIT ?", (store, _SWEEP)
            ).fetchall(),
            listed,
        )

    def collect_orphans(self) -> None:
        """Blobs that a killed kernel wrote and never named, found by listing the local folder."""
        blobs = self.stores()
        if blobs.current != next((n for n, u in blobs.urls.items() if not u), None):
            return  # a remote store is listed by `aios storage check --repair` only

        def listed(outcome: Outcome[list[str]]) -> None:
            found = [] if outcome.error else outcome.result()
            if found:
                self._committer.change(lambda c: discard(c, found), lambda _: self.sweep())

        def discard(connection: sqlite3.Connection, keys: list[str]) -> None:
            known = {key for (key,) in connection.execute(
                "SELECT key FROM chunk WHERE store = ?", (blobs.current,))}  # fmt: skip
            connection.executemany(
                "INSERT OR IGNORE INTO garbage VALUES (?, ?)",
                [(blobs.current, key) for key in keys if key not in known],
            )

        self._lanes.submit(
            blobs.where(blobs.current),
            lambda: [k for k in blobs.store(blobs.current).names() if blobs.written_before(k)],
            listed,
        )


def _warn(outcome: Outcome[None], what: str) -> None:
    if outcome.error:
        log.warning("the store of blobs: %s; %s", outcome.error, what)
