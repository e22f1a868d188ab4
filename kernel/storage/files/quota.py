"""Quotas: what homes use and may use. Every byte kept of a file counts, old versions included.

Owns the rows of ``home``. The count is updated in the transaction that changes what is counted;
``aios storage check`` recounts and reports a difference. Functions run on the writing connection.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from aios.kernel.storage.db.schema import NEWEST
from aios.syscalls.errors import QuotaExceeded
from aios.syscalls.types.storage import FsUsage

OVERHEAD_BYTES = 256
"""Bytes that a version, folder or value counts against the quota in addition to its content."""


class Limits(NamedTuple):
    """``quota``: bytes for a home without a quota of its own; ``keep``: versions per file."""

    quota: int
    keep: int


def usage(connection: sqlite3.Connection, limits: Limits, owner: str) -> FsUsage:
    """Return what a home uses."""
    used, quota = _home(connection, limits, owner)
    (files,) = connection.execute(
        "SELECT count(*) FROM file WHERE owner = ? AND live = 1 AND kind = 'file'", (owner,)
    ).fetchone()
    return FsUsage(owner, files, used, old_bytes(connection, owner), quota)


def old_bytes(connection: sqlite3.Connection, owner: str) -> int:
    """Return the bytes that pruning to one version would free."""
    (content,) = connection.execute(
        "SELECT coalesce(sum(extent.size), 0) FROM extent JOIN file ON file.id = extent.file"
        " WHERE owner = ? AND last < ?", (owner, NEWEST),
    ).fetchone()  # fmt: skip
    (versions,) = connection.execute(
        "SELECT count(*) FROM version JOIN file ON file.id = version.file"
        " WHERE owner = ? AND NOT (live = 1 AND version.version = file.version)", (owner,),
    ).fetchone()  # fmt: skip
    return int(content + versions * OVERHEAD_BYTES)


def charge(
    connection: sqlite3.Connection,
    limits: Limits,
    owner: str,
    more: int,
    what: str,
    displaced: int = 0,
) -> None:
    """Count bytes against a home. Raises QuotaExceeded with both numbers.

    ``displaced``: bytes that this very change has made old; they are not reported as prunable.
    """
    used, quota = _home(connection, limits, owner)
    if more > 0 and used + more > quota:
        old = old_bytes(connection, owner) - displaced
        raise quota_error(owner, what, used + more, quota, old)
    add_used(connection, owner, more)


def quota_error(owner: str, what: str, wanted: int, quota: int, old: int) -> QuotaExceeded:
    """Return the error for a full home."""
    return QuotaExceeded(
        f"{what} would take the home of {owner} to {wanted:,} bytes; its quota is {quota:,}",
        f"{old:,} bytes are in old versions and deleted files: aios.fs.prune(); "
        f"or, as the operator: aios storage quota {owner} {max(2 * quota, wanted) >> 20 or 1}M",
    )


def _home(connection: sqlite3.Connection, limits: Limits, owner: str) -> tuple[int, int]:
    row = connection.execute("SELECT used, quota FROM home WHERE owner = ?", (owner,)).fetchone()
    used, quota = row or (0, None)
    return used, limits.quota if quota is None else quota


def add_used(connection: sqlite3.Connection, owner: str, more: int) -> None:
    """Count bytes against a home without checking its quota."""
    connection.execute(
        "INSERT INTO home(owner, used) VALUES (?, ?)"
        " ON CONFLICT(owner) DO UPDATE SET used = used + excluded.used",
        (owner, more),
    )


def set_quota(
    connection: sqlite3.Connection, limits: Limits, owner: str, quota: int | None
) -> FsUsage:
    """Give a home a quota of its own, in bytes, or (None) remove it."""
    add_used(connection, owner, 0)
    connection.execute("UPDATE home SET quota = ? WHERE owner = ?", (quota, owner))
    return usage(connection, limits, owner)
