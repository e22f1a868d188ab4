"""Content of files in homes on its way in and out: small pieces as rows, large ones as blobs.

A blob is durable before the commit that names it is tried; if that fails, the blob is deleted.
Runs in the kernel's thread; everything that blocks runs in the lane of its store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Literal

from aios.kernel.loop.clock import Clock
from aios.kernel.loop.lanes import Lanes
from aios.kernel.loop.task import Promise
from aios.kernel.storage.db.commit import Committer
from aios.kernel.storage.db.schema import FILE_HINT
from aios.syscalls.errors import StorageDamaged
from aios.syscalls.types.storage import FileInfo, FsData

from . import changes, chunks, versions
from .blobs import Blobs
from .chunks import INLINE_BYTES, Piece, Source
from .garbage import Garbage
from .paths import Place
from .quota import Limits
from .shares import allow
from .tree import File, Stamp


def file_info(place: Place, file: File) -> FileInfo:
    """Return a row as the caller of a place sees it."""
    kind: Literal["file", "folder"] = "folder" if file.kind == "folder" else "file"
    return FileInfo(place.shown(file.path), kind, file.size, file.version, file.changed, file.by,
                    file.kind == "damaged")  # fmt: skip


class Content:
    """Writes and reads content."""

    def __init__(
        self,
        committer: Committer,
        lanes: Lanes,
        blobs: Blobs,
        garbage: Garbage,
        limits: Limits,
        clock: Clock,
        on_changed: Callable[[Sequence[File]], None],
    ) -> None:
        self._committer, self._lanes, self._blobs = committer, lanes, blobs
        self._garbage, self._limits, self._clock = garbage, limits, clock
        self._on_changed = on_changed

    # ------------------------------------------------------------------ writing

    async def write(
        self, place: Place, agent: str, data: bytes, append: bool, expect: int | None
    ) -> FileInfo:
        """Make a file's next version."""
        if len(data) <= INLINE_BYTES:
            pieces = chunks.inline(data)
        else:
            self.check_writable()
            pieces = await self.cut(data)
        return await self.commit(place, agent, pieces, append, expect)

    def check_writable(self) -> None:
        """Raise the reason if no change is possible at all, before blobs are written for one."""
        reason = self._committer.failure or self._committer.refusal
        if reason:
            raise reason

    def cut(self, data: bytes) -> Promise[list[Piece]]:
        """Split content into pieces; its blobs are written."""
        blobs = self._blobs
        return self._lanes.run(blobs.lane(blobs.current), lambda: blobs.cut(data))

    async def commit(
        self, place: Place, agent: str, pieces: Sequence[Piece], append: bool, expect: int | None
    ) -> FileInfo:
        """Make a file's next version from pieces; delete their blobs if that fails."""
        stamp = Stamp(agent, self._clock.unix())

        def change(connection: sqlite3.Connection) -> tuple[File, bool]:
            allow(connection, place, agent, "write")
            file = changes.write(
                connection, self._limits, place.owner, place.path, pieces, stamp,
                append=append, expect=expect,
            )  # fmt: skip
            return file, chunks.has_garbage(connection)

        try:
            file, has_garbage = await self._committer.change(change, place.shown())
        except Exception as error:
            if not self._in_doubt(error):
                self._garbage.delete(pieces)
            raise
        self._on_changed([file])
        if has_garbage:
            self._garbage.sweep()
        return file_info(place, file)

    def _in_doubt(self, error: Exception) -> bool:
        """Return True if the disk may hold a change that failed.

        Changes that met damage were undone, and so were those that left the database usable.
        """
        return self._committer.failure is not None and not isinstance(error, StorageDamaged)

    # ------------------------------------------------------------------ reading

    async def read(
        self, place: Place, agent: str, offset: int, length: int, version: int | None
    ) -> FsData:
        """Return a piece of a version, its checksums verified."""
        try:
            return await self._read_once(place, agent, offset, length, version)
        except KeyError:  # pruned while it was read; the file may have another version by now
            pass
        try:
            return await self._read_once(place, agent, offset, length, version)
        except KeyError as missing:
            raise StorageDamaged(
                f"{place.shown()}: a blob of its content is missing: {missing}", FILE_HINT
            ) from None

    async def _read_once(
        self, place: Place, agent: str, offset: int, length: int, version: int | None
    ) -> FsData:
        name = place.shown()

        def look(connection: sqlite3.Connection) -> tuple[FileInfo, list[bytes | Source]]:
            allow(connection, place, agent, "read")
            file, meant, size = versions.at_version(connection, place.owner, place.path, version)
            start, end = min(offset, size), min(offset + length, size)
            found = chunks.sources(connection, file.id, meant, start, end, name)
            info = file_info(place, file._replace(version=meant, size=size))
            return info, [s if s.data is None else s.take(s.data, name) for s in found]

        info, parts = await self._committer.read(look, name)
        stores = [part.store for part in parts if isinstance(part, Source)]
        if not stores:
            return FsData(info, self._joined(parts, name))
        lane = self._blobs.lane(*stores)
        return FsData(info, await self._lanes.run(lane, lambda: self._joined(parts, name)))

    def _joined(self, parts: Sequence[bytes | Source], name: str) -> bytes:
        return b"".join(
            part.take(self._blobs.store(part.store).get(part.key), name)
            if isinstance(part, Source) else part
            for part in parts
        )  # fmt: skip
