"""Files written in parts: what has come so far, until the whole is committed or dropped.

Parts become blobs as they come, so memory holds no more than one blob of each. Nobody sees a file
before its end is there; what is dropped, or whose caller ends, leaves nothing. Runs in the
kernel's thread; whatever blocks is handed to the lane of its store or folder.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field

from aios.kernel.loop.lanes import Lanes
from aios.kernel.loop.task import Outcome
from aios.kernel.storage.db.commit import Committer, Done
from aios.syscalls.errors import AiosError, IllegalState, NotFound, ResourceExhausted
from aios.syscalls.types.storage import FileInfo, MountInfo

from . import chunks
from . import mount as hosts
from . import quota as quotas
from .chunks import BLOB_BYTES, INLINE_BYTES, Piece
from .content import Content, allow
from .paths import Place
from .quota import Limits
from .shares import find_mount

MOST_UPLOADS = 16
"""Files that one caller may be writing in parts at once."""
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


class Uploads:
    """All that are under way, by number."""

    def __init__(
        self, content: Content, committer: Committer, lanes: Lanes, limits: Limits
    ) -> None:
        self._content, self._committer = content, committer
        self._lanes, self._limits = lanes, limits
        self._uploads: dict[int, Upload] = {}
        self._upload_ids = itertools.count(1)

    def begin(
        self, user: str, place: Place, agent: str, expect: int | None, done: Done[int]
    ) -> None:
        """Begin to write in parts; ``done`` gets the upload's number."""
        self._most(user)
        if place.kind != "mount" and self._content.stopped:
            done(Outcome(None, self._content.stopped))
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

        self._content.cut(data, kept)

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
            self._content.commit(
                upload.place, upload.agent, upload.pieces, False, upload.expect, done
            )

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
                yield (
                    self._content.stores().store(piece.store).get(piece.key)
                    if whole is None
                    else whole
                )

        def written(outcome: Outcome[FileInfo]) -> None:
            self._forget(upload)
            done(outcome)

        def found(outcome: Outcome[MountInfo]) -> None:
            if outcome.error:
                written(Outcome(None, outcome.error))
                return
            mount, path = outcome.result(), upload.place.path
            self._lanes.submit(
                mount.folder, lambda: hosts.write_parts(mount, path, contents()), written
            )

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
        self._content.delete_blobs([(p.store, p.key) for p in upload.pieces if p.data is None])
        upload.pieces = []
