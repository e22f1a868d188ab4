"""Small values by key in a home: the rows behind ``aios.kv``.

The caller packs values; here they are bytes. They count against the home's quota. Functions run on
the writing connection, each change in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgpack

from aios.kernel.storage.db.schema import row_sum
from aios.syscalls.errors import NotFound, StorageDamaged, VersionConflict
from aios.syscalls.types.storage import KvEntry

from .quota import OVERHEAD_BYTES, Limits, charge

_ROW = "SELECT owner, key, version, changed, value, sum FROM kv WHERE owner = ? AND key = ?"


def get(connection: sqlite3.Connection, owner: str, key: str) -> KvEntry:
    """Return a value. Raises NotFound, StorageDamaged."""
    row = _find(connection, owner, key)
    if row is None:
        raise NotFound(f"there is no value {key!r}", "list the keys: aios.kv.list()")
    _check_row(row, owner, key)
    _, _, version, changed, value, _ = row
    return KvEntry(key, version, changed, msgpack.unpackb(value, strict_map_key=False))


def put(
    connection: sqlite3.Connection, limits: Limits, owner: str, key: str, value: bytes,
    expect: int | None, unix: float,
) -> KvEntry:  # fmt: skip
    """Set a value, changed at ``unix``. Raises VersionConflict, QuotaExceeded."""
    old = _old(connection, owner, key, expect)
    row = (owner, key, (old[2] if old else 0) + 1, unix, value)
    connection.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?, ?, ?)", (*row, row_sum(*row)))
    charge(connection, limits, owner, size(key, value) - _held(old), f"setting {key!r}")
    return KvEntry(key, row[2], row[3])


def delete(
    connection: sqlite3.Connection, limits: Limits, owner: str, key: str, expect: int | None
) -> None:
    """Delete a value. Raises NotFound, VersionConflict."""
    old = _old(connection, owner, key, expect)
    if old is None:
        raise NotFound(f"there is no value {key!r}", "list the keys: aios.kv.list()")
    connection.execute("DELETE FROM kv WHERE owner = ? AND key = ?", (owner, key))
    charge(connection, limits, owner, -_held(old), "")


def keys(
    connection: sqlite3.Connection, owner: str, prefix: str, after: str, most: int
) -> list[str]:
    """Return at most ``most`` keys with a prefix, in order, behind ``after``."""
    rows = connection.execute(
        "SELECT key FROM kv WHERE owner = ? AND key >= ? AND key > ?"
        " AND substr(key, 1, ?) = ? ORDER BY key LIMIT ?",
        (owner, prefix, after, len(prefix), prefix, most),
    )
    return [key for (key,) in rows]


def size(key: str, value: bytes) -> int:
    """Return what a value counts against the quota, in bytes."""
    return len(key.encode()) + len(value) + OVERHEAD_BYTES


def _held(row: Sequence[Any] | None) -> int:
    return size(row[1], row[4]) if row else 0


def _find(connection: sqlite3.Connection, owner: str, key: str) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = connection.execute(_ROW, (owner, key)).fetchone()
    return row


def _check_row(row: Sequence[Any], owner: str, key: str) -> None:
    if row_sum(*row[:-1]) != row[-1]:
        raise StorageDamaged(
            f"value {key!r} of {owner} is not what was written",
            "set it again without expect=, or delete it; or, as the operator, restore a backup: "
            "aios storage restore FOLDER",
        )


def _old(
    connection: sqlite3.Connection, owner: str, key: str, expect: int | None
) -> tuple[Any, ...] | None:
    """Return the row before a change; a damaged one can be replaced if no version is expected."""
    old = _find(connection, owner, key)
    if old and expect is not None:
        _check_row(old, owner, key)
    _check_expected(key, old, expect)
    return old


def _check_expected(key: str, old: Sequence[Any] | None, expect: int | None) -> None:
    found = old[2] if old else 0
    if expect is not None and found != expect:
        raise VersionConflict(
            f"value {key!r} is at version {found}, not {expect}",
            "get it again, and set with expect= its version now",
        )
