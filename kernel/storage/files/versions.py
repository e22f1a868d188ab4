"""Old versions of files: looking at them, going back to them, forgetting them.

Versions of a file count up from 1 and are never used twice; a deletion is one of them. What is
forgotten here is forgotten for good. Functions run on the writing connection.
"""

from __future__ import annotations

import sqlite3
import time

from aios.kernel.storage.db.schema import FILE_HINT, row_sum
from aios.syscalls.errors import IllegalState, NotFound, StorageDamaged
from aios.syscalls.types.storage import VersionInfo

from . import chunks
from .quota import OVERHEAD_BYTES, Limits, add_used, charge
from .tree import File, below, find, forget_before, get, gone, make_folders, record, recovered


def history(connection: sqlite3.Connection, owner: str, path: str) -> list[VersionInfo]:
    """The kept versions of a file, deleted or not, newest first. Raises NotFound."""
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
        file = find(connection, owner, path) or gone(connection, owner, path)
    except StorageDamaged:
        file = recovered(connection, owner, path)
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
    """A file, the version that is meant, and its size. Raises NotFound, IllegalState."""
    if version is None:
        file = get(connection, owner, path)
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
            "those that are kept: aios.fs.history, or: aios storage history",
        )  # fmt: skip
    if row_sum(*row[:-1]) != row[-1]:
        raise StorageDamaged(f"the row of version {version} of /{path} is not what was written",
                             FILE_HINT)  # fmt: skip
    return file, version, row[2]


def rollback(
    connection: sqlite3.Connection, limits: Limits, owner: str, path: str, version: int, by: str
) -> File:
    """A new version with an old one's content. Raises NotFound, QuotaExceeded."""
    file, _, size = at_version(connection, owner, path, version)
    parts = chunks.whole_extents(connection, file.id, version, size, f"/{path}")
    if not file.live:
        make_folders(connection, owner, file.parent, by)
    next_version = file.version + 1
    chunks.close_all(connection, file.id, file.version)
    for part in parts:
        chunks.use(connection, part.chunk)
        chunks.put_extent(connection, file.id, next_version, part)
    new = file._replace(version=next_version, size=size, by=by, changed=time.time(), live=1)
    freed = record(connection, limits, new, "rollback")
    more, displaced = OVERHEAD_BYTES + size - freed, OVERHEAD_BYTES + file.size if file.live else 0
    charge(connection, limits, owner, more, f"rolling back /{path}", displaced)
    return new


def prune(connection: sqlite3.Connection, owner: str, path: str, keep: int) -> tuple[int, int]:
    """Forget all but the newest versions under a path; how many, and the bytes freed."""
    file = find(connection, owner, path)
    if file and file.kind == "folder":
        chosen = [*below(connection, owner, path, live=True, whole=True),
                  *below(connection, owner, path, live=False, whole=True)]  # fmt: skip
    else:
        chosen = [_with_history(connection, owner, path)]
    count = freed = 0
    for each in chosen:
        if each.kind == "file":
            last_kept = 0 if not each.live and keep == 1 else keep
            found = forget_before(connection, each.id, each.version - last_kept + 1)
            count, freed = count + found[0], freed + found[1]
            if not last_kept:
                connection.execute("DELETE FROM file WHERE id = ?", (each.id,))
    add_used(connection, owner, -freed)
    return count, freed
