"""Old versions of files: listing them, rolling back to one, pruning them.

Versions of a file count up from 1 and are never reused; a deletion is a version, too. A pruned
version cannot be brought back. Functions run on the writing connection.
"""

from __future__ import annotations

import sqlite3

from aios.kernel.storage.db.schema import FILE_HINT, row_sum
from aios.syscalls.errors import IllegalState, NotFound, StorageDamaged
from aios.syscalls.types.storage import VersionInfo

from . import chunks, tree
from .quota import OVERHEAD_BYTES, Limits, add_used, charge
from .tree import File, Stamp


def record(connection: sqlite3.Connection, limits: Limits, new: File, how: str) -> int:
    """Write the rows of a file's new version; return the bytes freed by dropping old versions."""
    add(connection, new, how)
    return drop_before(connection, new.id, new.version - limits.keep + 1)[1]


def add(connection: sqlite3.Connection, new: File, how: str) -> None:
    """Write the rows of a file's new version, made by ``how``."""
    tree.update(connection, new)
    row = (new.id, new.version, new.size if new.live else 0, new.changed, new.by, how)
    connection.execute("INSERT INTO version VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, row_sum(*row)))


def drop_before(connection: sqlite3.Connection, file: int, oldest: int) -> tuple[int, int]:
    """Drop a file's versions before ``oldest``; return how many, and the bytes freed."""
    if oldest <= 1:
        return 0, 0
    found = connection.execute(
        "DELETE FROM version WHERE file = ? AND version < ?", (file, oldest)
    ).rowcount
    if not found:
        return 0, 0
    return found, found * OVERHEAD_BYTES + chunks.drop_before(connection, file, oldest)


def history(connection: sqlite3.Connection, owner: str, path: str) -> list[VersionInfo]:
    """Return the kept versions of a file, deleted or not, newest first. Raises NotFound."""
    found = _with_history(connection, owner, path).id
    rows = connection.execute(
        "SELECT version, size, written, by, how, sum FROM version WHERE file = ?"
        " ORDER BY version DESC", (found,),
    )  # fmt: skip
    return [
        VersionInfo(*row, row_sum(found, *row) != total)  # type: ignore[call-arg]  # five and one
        for *row, total in rows
    ]


def _with_history(connection: sqlite3.Connection, owner: str, path: str) -> File:
    try:
        file = tree.find(connection, owner, path) or tree.gone(connection, owner, path)
    except StorageDamaged:
        file = tree.recovered(connection, owner, path)
        if file is None:
            raise
    if file is None:
        raise NotFound(f"there is no file /{path}, and no old version of one")
    if file.kind != "file":
        raise IllegalState(f"/{path} is a folder; only files have versions")
    return file


def at_version(
    connection: sqlite3.Connection, owner: str, path: str, version: int | None
) -> tuple[File, int, int]:
    """Return a file, the version meant (None: the newest) and its size.

    Raises NotFound, IllegalState, StorageDamaged.
    """
    if version is None:
        file = tree.get(connection, owner, path)
        if file.kind != "file":
            raise IllegalState(f"/{path} is a folder", "list it: aios.fs.list, or: aios storage ls")
        return file, file.version, file.size
    file = _with_history(connection, owner, path)
    row = connection.execute(
        "SELECT file, version, size, written, by, how, sum FROM version"
        " WHERE file = ? AND version = ?", (file.id, version),
    ).fetchone()  # fmt: skip
    if row is None or row[5] == "delete":
        raise NotFound(
            f"/{path} has no version {version}" if row is None
            else f"version {version} of /{path} is its deletion",
            "list those that are kept: aios.fs.history, or: aios storage history",
        )  # fmt: skip
    if row_sum(*row[:-1]) != row[-1]:
        raise StorageDamaged(f"the row of version {version} of /{path} is not what was written",
                             FILE_HINT)  # fmt: skip
    return file, version, row[2]


def rollback(
    connection: sqlite3.Connection, limits: Limits, owner: str, path: str, version: int,
    stamp: Stamp,
) -> File:  # fmt: skip
    """Make a new version with an old one's content. Raises NotFound, QuotaExceeded."""
    file, _, size = at_version(connection, owner, path, version)
    parts = chunks.whole_extents(connection, file.id, version, size, f"/{path}")
    if not file.live:
        tree.make_folders(connection, owner, file.parent, stamp)
    next_version = file.version + 1
    chunks.close_all(connection, file.id, file.version)
    for part in parts:
        chunks.use(connection, part.chunk)
        chunks.put_extent(connection, file.id, next_version, part)
    new = file._replace(version=next_version, size=size, by=stamp.by, changed=stamp.unix, live=1)
    freed = record(connection, limits, new, "rollback")
    more, displaced = OVERHEAD_BYTES + size - freed, OVERHEAD_BYTES + file.size if file.live else 0
    charge(connection, limits, owner, more, f"rolling back /{path}", displaced)
    return new


def prune(connection: sqlite3.Connection, owner: str, path: str, keep: int) -> tuple[int, int]:
    """Drop all but the ``keep`` newest versions under a path; return their number and bytes."""
    file = tree.find(connection, owner, path)
    if file and file.kind == "folder":
        chosen = [*tree.below(connection, owner, path, live=True, whole=True),
                  *tree.below(connection, owner, path, live=False, whole=True)]  # fmt: skip
    else:
        chosen = [_with_history(connection, owner, path)]
    count = freed = 0
    for each in chosen:
        if each.kind == "file":
            last_kept = 0 if not each.live and keep == 1 else keep
            found = drop_before(connection, each.id, each.version - last_kept + 1)
            count, freed = count + found[0], freed + found[1]
            if not last_kept:
                connection.execute("DELETE FROM file WHERE id = ?", (each.id,))
    add_used(connection, owner, -freed)
    return count, freed
