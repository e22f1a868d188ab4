"""Chunks of content, in rows or blobs, and the extents that make files of them.

A chunk has a SHA-256 and a reference count. Up to INLINE_BYTES it is a row of the database, so a
small write is one commit and nothing else. A larger chunk is a blob, kept once for equal content,
and on the disk before the commit that names it. Names of blobs are never reused, so deleting an
unreferenced blob cannot hit one that is being written.

An extent says for which versions a chunk stands at an offset of a file. So an append adds a row
whatever the file's size, and an old version costs only what it does not share.

Functions run inside a transaction on the writing connection.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from aios.kernel.storage.db.schema import FILE_HINT, NEWEST, row_sum
from aios.syscalls.errors import StorageDamaged

INLINE_BYTES = 64 << 10
"""Size up to which a chunk is a row."""
BLOB_BYTES = 1 << 20
"""Size of a blob, but for the last of a file."""
TAIL_BYTES = 16 << 10
"""Size up to which an append is merged with the chunk before it."""


class Piece(NamedTuple):
    """A part of new content: its bytes, or the store and name of its blob."""

    hash: bytes
    size: int
    data: bytes | None
    store: int = 0
    key: str = ""


class Extent(NamedTuple):
    """A chunk at an offset of a version."""

    at: int
    chunk: int
    size: int


class Source(NamedTuple):
    """Where to read: bytes, or a blob. ``skip`` and ``size`` select a part of the chunk."""

    hash: bytes
    skip: int
    size: int
    data: bytes | None
    store: int
    key: str

    def take(self, whole: bytes, what: str) -> bytes:
        """Return the selected part of a chunk. Raises StorageDamaged if its checksum is wrong."""
        if hashlib.sha256(whole).digest() != self.hash:
            raise StorageDamaged(
                f"{what}: its content at chunk {self.hash.hex()[:16]} is not what was written",
                FILE_HINT,
            )
        return whole[self.skip : self.skip + self.size]


def inline(data: bytes) -> list[Piece]:
    """Return small content as pieces."""
    return [Piece(hashlib.sha256(data).digest(), len(data), data)] if data else []


def add(connection: sqlite3.Connection, piece: Piece) -> int:
    """Add a reference to a piece's content; return its chunk.

    If an equal chunk exists, the blob that was written for this one becomes garbage.
    """
    store, key = (None, None) if piece.data is not None else (piece.store, piece.key)
    known = None if key is None else connection.execute(
        "SELECT id FROM chunk WHERE hash = ? AND key IS NOT NULL", (piece.hash,)
    ).fetchone()  # fmt: skip
    if known:
        connection.execute("UPDATE chunk SET refs = refs + 1 WHERE id = ?", known)
        _discard(connection, piece.store, piece.key)
        return int(known[0])
    cursor = connection.execute(
        "INSERT INTO chunk(hash, size, refs, store, key, data) VALUES (?, ?, 1, ?, ?, ?)",
        (piece.hash, piece.size, store, key, piece.data),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def use(connection: sqlite3.Connection, chunk: int) -> None:
    """Add a reference to a chunk."""
    connection.execute("UPDATE chunk SET refs = refs + 1 WHERE id = ?", (chunk,))


def release(connection: sqlite3.Connection, chunk: int) -> None:
    """Remove a reference; without any, the chunk is deleted and its blob becomes garbage.

    If the blob's name does not match the hash, the row is damaged and the blob is left alone: it
    may be another chunk's.
    """
    row = connection.execute(
        "SELECT refs, store, key, hash FROM chunk WHERE id = ?", (chunk,)
    ).fetchone()
    if row is None:
        return
    refs, store, key, digest = row
    if refs > 1:
        connection.execute("UPDATE chunk SET refs = refs - 1 WHERE id = ?", (chunk,))
        return
    connection.execute("DELETE FROM chunk WHERE id = ?", (chunk,))
    if key is not None and key.endswith(digest.hex()):
        _discard(connection, store, key)


def _discard(connection: sqlite3.Connection, store: int, key: str) -> None:
    connection.execute("INSERT OR IGNORE INTO garbage VALUES (?, ?)", (store, key))


def has_garbage(connection: sqlite3.Connection) -> bool:
    """Return True if blobs wait to be deleted."""
    return connection.execute("SELECT 1 FROM garbage LIMIT 1").fetchone() is not None


# ------------------------------------------------------------------------------ extents


def close_all(connection: sqlite3.Connection, file: int, last: int, start: int = 0) -> None:
    """End the newest version's extents from an offset on at version ``last``."""
    connection.execute(
        "UPDATE extent SET last = ? WHERE file = ? AND last = ? AND at >= ?",
        (last, file, NEWEST, start),
    )


def place(
    connection: sqlite3.Connection, file: int, first: int, at: int, pieces: Sequence[Piece]
) -> None:
    """Put pieces one after another, from an offset of a new version on."""
    for piece in pieces:
        put_extent(connection, file, first, Extent(at, add(connection, piece), piece.size))
        at += piece.size


def put_extent(connection: sqlite3.Connection, file: int, first: int, extent: Extent) -> None:
    """Add an extent from version ``first`` on. The reference to its chunk is already counted."""
    at, chunk, size = extent
    connection.execute(
        "INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?)",
        (file, NEWEST, at, first, chunk, size, row_sum(file, at, first, chunk, size)),
    )


def extents(connection: sqlite3.Connection, file: int, version: int) -> list[Extent]:
    """Return all extents of a version, in order."""
    rows = connection.execute(
        "SELECT at, chunk, size FROM extent WHERE file = ? AND last >= ? AND first <= ?"
        " ORDER BY at",
        (file, version, version),
    )
    return [Extent(*row) for row in rows]


def whole_extents(
    connection: sqlite3.Connection, file: int, version: int, size: int, what: str
) -> list[Extent]:
    """Return all extents of a version. Raises StorageDamaged if one is damaged or missing."""
    found = sources(connection, file, version, 0, size, what)
    parts = extents(connection, file, version)
    if len(found) != len(parts):
        raise StorageDamaged(f"{what}: the record of its content is damaged", FILE_HINT)
    return parts


def tail(connection: sqlite3.Connection, file: int) -> tuple[int, bytes] | None:
    """Return offset and bytes of the newest version's last chunk if an append may merge into it."""
    row = connection.execute(
        "SELECT extent.at, chunk.data, chunk.hash, first, chunk, extent.size, extent.sum"
        " FROM extent JOIN chunk ON chunk.id = chunk"
        " WHERE file = ? AND last = ? ORDER BY extent.at DESC LIMIT 1",
        (file, NEWEST),
    ).fetchone()
    if row is None or row[1] is None or len(row[1]) >= TAIL_BYTES:
        return None
    at, data, digest, *extent, total = row
    if hashlib.sha256(data).digest() != digest or row_sum(file, at, *extent) != total:
        return None  # damaged: a read reports it
    return row[0], row[1]


def sources(
    connection: sqlite3.Connection, file: int, version: int, start: int, end: int, what: str
) -> list[Source]:
    """Return where to read bytes ``start`` to ``end`` of a version.

    Raises StorageDamaged if the extents do not cover them.
    """
    rows = connection.execute(
        "SELECT extent.at, extent.first, extent.chunk, extent.size, extent.sum, hash, store, key,"
        " data FROM extent LEFT JOIN chunk ON chunk.id = extent.chunk"
        " WHERE file = ? AND last >= ? AND first <= ? AND at < ? AND at + extent.size > ?"
        " ORDER BY at",
        (file, version, version, end, start),
    )
    found, reached = [], start
    for at, first, chunk, size, total, digest, store, key, data in rows:
        skip = max(0, start - at)
        if at + skip != reached or row_sum(file, at, first, chunk, size) != total or not digest:
            break
        take = min(end, at + size) - at - skip
        found.append(Source(digest, skip, take, data, store or 0, key or ""))
        reached += take
    if reached < end:
        raise StorageDamaged(
            f"{what}: the record of its content is damaged at byte {reached}",
            FILE_HINT,
        )
    return found


def drop_before(connection: sqlite3.Connection, file: int, oldest: int) -> int:
    """Drop the extents that only versions before ``oldest`` have; return their bytes.

    A damaged extent does not release its chunk, which may be another file's.
    """
    where = "FROM extent WHERE file = ? AND last < ?"
    freed = 0
    for at, first, chunk, size, total in connection.execute(
        f"SELECT at, first, chunk, size, sum {where}", (file, oldest)
    ).fetchall():
        if row_sum(file, at, first, chunk, size) == total:
            release(connection, chunk)
        freed += size
    if freed:
        connection.execute(f"DELETE {where}", (file, oldest))
    return freed
