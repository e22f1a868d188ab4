"""Content on its way in and out: small pieces through the database, large ones as blobs.

Owns the thread of the blobs and the files that are being written in parts. A blob is safe before
the commit that names it is tried; when that fails the blob is deleted again, and what a killed
kernel left behind is found by its name when the next one starts. Runs in the kernel's thread;
whatever blocks is handed to a worker.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from aios.syscalls.errors import (
    AiosError,
    IllegalState,
    NotFound,
    ResourceExhausted,
    StorageDamaged,
)
from aios.syscalls.storage_types import FileInfo, FsData, MountInfo

from . import storage_chunks as chunks
from . import storage_files as files
from . import storage_mount as hosts
from . import storage_quota as quotas
from . import storage_versions as versions
from .storage_blobs import Blobs
from .storage_chunks import BLOB_BYTES, INLINE_BYTES, Piece, Source
from .storage_commit import Committer, Done
from .storage_files import File
from .storage_paths import Place
from .storage_quota import Limits
from .storage_schema import FILE_HINT
from .storage_shares import find_mount, require
from .worker import Outcome, Worker

log = logging.getLogger("aios.storage")

T = TypeVar("T")

MOST_UPLOADS = 16
"""Files that one caller may be writing in parts at once."""
_SWEEP = 500
_ROOM_ON_MOUNTS = 1 << 50


@dataclass
class Upload:
    """A file being written in parts. ``rest``: bytes that do not fill a blob yet."""

    id: int
    user: str
    agent: str
    place: Place
    expect: int | None
    room: int
    pieces: list[Piece] = field(default_factory=list)
    rest: bytearray = field(default_factory=bytearray)
    size: int = 0
    busy: bool = False


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
        worker: Worker,
        limits: Limits,
        on_changed: Callable[[Sequence[File]], None],
    ) -> None:
        self._committer, self._worker, self._limits = committer, worker, limits
        self._on_changed = on_changed
        self.blobs: Blobs | None = None
        """Set when storage has been opened."""
        self.holds = 0
        """While a backup is made, no blob is deleted."""
        self._uploads: dict[int, Upload] = {}
        self._upload_ids = itertools.count(1)
        self._sweeping = False

    # ------------------------------------------------------------------ whole writes

    def write(
        self, place: Place, agent: str, data: bytes, append: bool, expect: int | None,
        done: Done[FileInfo],
    ) -> None:  # fmt: skip
        """Make a file's next version."""
        if len(data) <= INLINE_BYTES:
            self._commit(place, agent, chunks.inline(data), append, expect, done)
            return
        if self._stopped:
            done(Outcome(None, self._stopped))
            return

        def kept(outcome: Outcome[list[Piece]]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
            else:
                self._commit(place, agent, outcome.result(), append, expect, done)

        self._worker.submit(lambda: self._stores().cut(data), kept)

    def _commit(
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
                    self._delete_blobs([(p.store, p.key) for p in pieces if p.data is None])
                done(Outcome(None, outcome.error))
                return
            file, garbage = outcome.result()
            done(Outcome(shown(place, file), None))
            self._on_changed([file])
            if garbage:
                self.sweep()

        self._committer.change(change, committed, place.shown())

    @property
    def _stopped(self) -> AiosError | None:
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
            self._worker.submit(lambda: FsData(info, self._fetch(parts, info.path)), fetched)

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
            else part.take(self._stores().store(part.store).get(part.key), name)
            for part in parts
        )  # fmt: skip

    def _stores(self) -> Blobs:
        assert self.blobs
        return self.blobs

    # ------------------------------------------------------------------ writes in parts

    def begin(
        self, user: str, place: Place, agent: str, expect: int | None, done: Done[int]
    ) -> None:
        """Begin to write in parts; ``done`` gets the upload's number."""
        self._most(user)
        if place.kind != "mount" and self._stopped:
            done(Outcome(None, self._stopped))
            return

        def look(connection: sqlite3.Connection) -> int:
            if place.kind == "mount":
                hosts.need_write(find_mount(connection, agent, place.owner), place.path)
                return _ROOM_ON_MOUNTS
            allow(connection, place, agent, "write")
            usage = quotas.usage(connection, self._limits, place.owner)
            return usage.quota_bytes - usage.used_bytes

        def looked(outcome: Outcome[int]) -> None:
            try:
                room = outcome.result()
                self._most(user)
            except AiosError as error:
                done(Outcome(None, error))
                return
            upload = Upload(next(self._upload_ids), user, agent, place, expect, room)
            self._uploads[upload.id] = upload
            done(Outcome(upload.id, None))

        self._committer.view(look, looked)

    def _most(self, user: str) -> None:
        if sum(upload.user == user for upload in self._uploads.values()) >= MOST_UPLOADS:
            raise ResourceExhausted(
                f"{MOST_UPLOADS} files are being written in parts; that is the limit",
                "end some of them",
            )

    def part(self, user: str, number: int, data: bytes, done: Done[None]) -> None:
        """Take the next part in. An upload that cannot go on is dropped."""
        upload = self._upload(user, number)
        upload.size += len(data)
        if upload.size > upload.room:
            self.drop(user, number)
            owner = upload.place.owner
            raise quotas.quota_error(
                owner, f"writing {upload.place.shown()}", upload.size,
                upload.room, 0,
            )  # fmt: skip
        upload.rest += data
        whole = len(upload.rest) // BLOB_BYTES * BLOB_BYTES
        if not whole:
            done(Outcome(None, None))
            return
        ready = bytes(upload.rest[:whole])
        del upload.rest[:whole]
        self._keep(upload, ready, done)

    def _keep(self, upload: Upload, data: bytes, done: Done[None]) -> None:
        upload.busy = True

        def kept(outcome: Outcome[list[Piece]]) -> None:
            upload.busy = False
            if outcome.error:
                self._uploads.pop(upload.id, None)
                self._forget(upload)
                done(Outcome(None, outcome.error))
                return
            upload.pieces += outcome.result()
            if upload.id in self._uploads:
                done(Outcome(None, None))
            else:  # dropped meanwhile
                self._forget(upload)
                done(Outcome(None, NotFound(f"upload {upload.id} has been dropped")))

        self._worker.submit(lambda: self._stores().cut(data), kept)

    def end(self, user: str, number: int, done: Done[FileInfo]) -> None:
        """Commit what the parts make."""
        upload = self._upload(user, number)
        rest = bytes(upload.rest)

        def complete(outcome: Outcome[None]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
                return
            self._uploads.pop(number, None)
            if upload.place.kind == "mount":
                self._to_mount(upload, done)
                return
            self._commit(upload.place, upload.agent, upload.pieces, False, upload.expect, done)

        if len(rest) > INLINE_BYTES:
            self._keep(upload, rest, complete)
        else:
            upload.pieces += chunks.inline(rest)
            complete(Outcome(None, None))

    def _to_mount(self, upload: Upload, done: Done[FileInfo]) -> None:
        """Its parts have been blobs so far; they become a file of the host."""

        def contents() -> Iterator[bytes]:
            for piece in upload.pieces:
                whole = piece.data
                yield self._stores().store(piece.store).get(piece.key) if whole is None else whole

        def written(outcome: Outcome[FileInfo]) -> None:
            self._forget(upload)
            done(outcome)

        def found(outcome: Outcome[MountInfo]) -> None:
            if outcome.error:
                written(Outcome(None, outcome.error))
                return
            mount, path = outcome.result(), upload.place.path
            self._worker.submit(lambda: hosts.write_parts(mount, path, contents()), written)

        self._committer.view(lambda c: find_mount(c, upload.agent, upload.place.owner), found)

    def drop(self, user: str, number: int) -> None:
        """Forget an upload and its blobs."""
        upload = self._upload(user, number, busy=True)
        del self._uploads[number]
        if not upload.busy:
            self._forget(upload)

    def drop_all(self, user: str) -> None:
        """Its caller has ended."""
        for upload in [u for u in self._uploads.values() if u.user == user]:
            self.drop(user, upload.id)

    def _upload(self, user: str, number: int, *, busy: bool = False) -> Upload:
        upload = self._uploads.get(number)
        if upload is None or upload.user != user:
            raise NotFound(f"there is no upload {number} of this caller", "begin one: aios.fs.open")
        if upload.busy and not busy:
            raise IllegalState(f"upload {number} still takes its last part in", "wait for it")
        return upload

    def _forget(self, upload: Upload) -> None:
        self._delete_blobs([(p.store, p.key) for p in upload.pieces if p.data is None])
        upload.pieces = []

    # ------------------------------------------------------------------ garbage

    def _delete_blobs(self, names: Sequence[tuple[int, str]]) -> None:
        """Delete blobs that no commit has named."""

        def job() -> None:
            for store, key in names:
                self._stores().store(store).delete([key])

        if names:
            self._worker.submit(job, lambda outcome: _warn(outcome, "left blobs behind"))

    def sweep(self) -> None:
        """Delete the blobs that commits have made garbage, some at a time, once at a time."""
        if self._sweeping or self.holds:
            return
        self._sweeping = True

        def listed(outcome: Outcome[list[tuple[int, str]]]) -> None:
            found = [] if outcome.error else outcome.result()
            if not found or self.holds:
                self._sweeping = False
                return

            def job() -> None:
                for store, key in found:
                    self._stores().store(store).delete([key])

            def deleted(outcome: Outcome[None]) -> None:
                if outcome.error:
                    self._sweeping = False
                    _warn(outcome, "will delete them later")
                else:
                    self._committer.change(forget, forgotten)

            def forget(connection: sqlite3.Connection) -> None:
                connection.executemany("DELETE FROM garbage WHERE store = ? AND key = ?", found)

            def forgotten(outcome: Outcome[None]) -> None:
                self._sweeping = False
                if not outcome.error and len(found) == _SWEEP:
                    self.sweep()

            self._worker.submit(job, deleted)

        self._committer.view(
            lambda connection: connection.execute(
                "SELECT store, key FROM garbage LIMIT ?", (_SWEEP,)
            ).fetchall(),
            listed,
        )


def _warn(outcome: Outcome[None], what: str) -> None:
    if outcome.error:
        log.warning("the store of blobs: %s; %s", outcome.error, what)
