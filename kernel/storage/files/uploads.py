"""Uploads: files written in parts, until the whole is committed or dropped.

Parts become blobs as they come, so memory holds no more than one blob of each upload. A file is
visible only when its last part is committed; an upload that is dropped leaves nothing, and so does
one whose caller ends. Runs in the kernel's thread; everything that blocks runs in the lane of its
store or folder.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field

from aios.kernel.loop.lanes import Lanes
from aios.kernel.storage.db.commit import Committer
from aios.syscalls.errors import IllegalState, NotFound, ResourceExhausted
from aios.syscalls.types.storage import FileInfo

from . import chunks, mount, quota
from .blobs import Blobs
from .chunks import BLOB_BYTES, INLINE_BYTES, Piece
from .content import Content
from .garbage import Garbage
from .mount_list import find_mount
from .paths import Place
from .quota import Limits
from .shares import allow

MAX_UPLOADS = 16
"""Limit on uploads per caller."""
_ROOM_ON_MOUNTS_BYTES = 1 << 50


@dataclass
class Upload:
    """A file being written in parts. ``rest``: bytes that do not fill a blob yet."""

    id: int
    user: str
    agent: str
    place: Place
    expect: int | None
    room_bytes: int
    pieces: list[Piece] = field(default_factory=list)
    rest: bytearray = field(default_factory=bytearray)
    size: int = 0
    busy: bool = False


class Uploads:
    """All uploads, by number."""

    def __init__(
        self, content: Content, committer: Committer, lanes: Lanes, blobs: Blobs,
        garbage: Garbage, limits: Limits,
    ) -> None:  # fmt: skip
        self._content, self._committer, self._lanes = content, committer, lanes
        self._blobs, self._garbage, self._limits = blobs, garbage, limits
        self._uploads: dict[int, Upload] = {}
        self._ids = itertools.count(1)

    async def begin(self, user: str, place: Place, agent: str, expect: int | None) -> int:
        """Begin an upload; return its number. Raises ResourceExhausted, PermissionDenied."""
        self._check_limit(user)
        if place.kind != "mount":
            self._content.check_writable()

        def room(connection: sqlite3.Connection) -> int:
            if place.kind == "mount":
                mount.need_write(find_mount(connection, agent, place.owner), place.path)
                return _ROOM_ON_MOUNTS_BYTES
            allow(connection, place, agent, "write")
            usage = quota.usage(connection, self._limits, place.owner)
            return usage.quota_bytes - usage.used_bytes

        room_bytes = await self._committer.read(room)
        self._check_limit(user)
        upload = Upload(next(self._ids), user, agent, place, expect, room_bytes)
        self._uploads[upload.id] = upload
        return upload.id

    def _check_limit(self, user: str) -> None:
        if sum(upload.user == user for upload in self._uploads.values()) >= MAX_UPLOADS:
            raise ResourceExhausted(
                f"{MAX_UPLOADS} files are being written in parts; that is the limit",
                "end some of them",
            )

    async def part(self, user: str, number: int, data: bytes) -> None:
        """Take the next part. An upload that cannot continue is dropped."""
        upload = self._find(user, number)
        upload.size += len(data)
        if upload.size > upload.room_bytes:
            self.drop(user, number)
            place = upload.place
            raise quota.quota_error(
                place.owner, f"writing {place.shown()}", upload.size, upload.room_bytes, 0
            )
        upload.rest += data
        whole = len(upload.rest) // BLOB_BYTES * BLOB_BYTES
        if whole:
            ready = bytes(upload.rest[:whole])
            del upload.rest[:whole]
            await self._cut(upload, ready)

    async def _cut(self, upload: Upload, data: bytes) -> None:
        """Make blobs of a part. Raises NotFound if the upload is dropped meanwhile."""
        upload.busy = True
        try:
            pieces = await self._content.cut(data)
        except Exception:
            self._uploads.pop(upload.id, None)
            self._discard(upload)
            raise
        finally:
            upload.busy = False
        upload.pieces += pieces
        if upload.id not in self._uploads:
            self._discard(upload)
            raise NotFound(f"upload {upload.id} has been dropped")

    async def end(self, user: str, number: int) -> FileInfo:
        """Commit what the parts make."""
        upload = self._find(user, number)
        if len(upload.rest) > INLINE_BYTES:
            await self._cut(upload, bytes(upload.rest))
        else:
            upload.pieces += chunks.inline(bytes(upload.rest))
        del self._uploads[number]
        if upload.place.kind == "mount":
            return await self._to_mount(upload)
        return await self._content.commit(
            upload.place, upload.agent, upload.pieces, False, upload.expect
        )

    async def _to_mount(self, upload: Upload) -> FileInfo:
        """Write a file of the host from the parts, which have been blobs so far."""
        place = upload.place

        def contents() -> Iterator[bytes]:
            for piece in upload.pieces:
                whole = piece.data
                yield self._blobs.store(piece.store).get(piece.key) if whole is None else whole

        try:
            found = await self._committer.read(lambda c: find_mount(c, upload.agent, place.owner))
            return await self._lanes.run(
                found.folder, lambda: mount.write_parts(found, place.path, contents())
            )
        finally:
            self._discard(upload)

    def drop(self, user: str, number: int) -> None:
        """Forget an upload and delete its blobs."""
        upload = self._find(user, number, busy=True)
        del self._uploads[number]
        if not upload.busy:
            self._discard(upload)

    def drop_all(self, user: str) -> None:
        """Drop all uploads of a caller that has ended."""
        for upload in [u for u in self._uploads.values() if u.user == user]:
            self.drop(user, upload.id)

    def _find(self, user: str, number: int, *, busy: bool = False) -> Upload:
        upload = self._uploads.get(number)
        if upload is None or upload.user != user:
            raise NotFound(f"there is no upload {number} of this caller", "begin one: aios.fs.open")
        if upload.busy and not busy:
            raise IllegalState(f"upload {number} is still writing its last part", "wait for it")
        return upload

    def _discard(self, upload: Upload) -> None:
        self._garbage.delete(upload.pieces)
        upload.pieces = []
