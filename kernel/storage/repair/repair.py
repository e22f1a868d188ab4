"""Repairs what check.py has found, as far as that needs no guessing.

Runs in one transaction on the writing connection. Lost content cannot be restored: the versions
that had it are dropped, and a file goes back to its newest intact version. Damaged shares, mounts
and values are removed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from aios.kernel.storage.db.schema import SUMMED, row_sum
from aios.kernel.storage.files import chunks, tree, versions
from aios.kernel.storage.files.tree import File

from .check import Findings, all_files, broken_versions, counted_use, wrong_counts


def repair(connection: sqlite3.Connection, found: Findings) -> list[str]:
    """Repair; return what was done. The caller then sweeps the garbage."""
    connection.execute("REINDEX")  # so that rows are found under the names that they have now
    done = list(_drop_rows(connection))
    for each in broken_versions(connection, found.bad_chunks):
        connection.execute(
            "DELETE FROM version WHERE file = ? AND version = ?", (each.file, each.version)
        )
    for file in list(all_files(connection)):
        has_versions = connection.execute("SELECT 1 FROM version WHERE file = ?", (file.id,))
        if file.kind == "file" or has_versions.fetchone():
            done += _settle(connection, file._replace(kind="file"))
        else:
            done += _keep_folder(connection, file._replace(kind="folder"))
    connection.execute(
        "DELETE FROM extent WHERE NOT EXISTS (SELECT 1 FROM version WHERE"
        " version.file = extent.file AND version BETWEEN first AND last AND how <> 'delete')"
    )
    done += _recount(connection)
    connection.executemany("INSERT OR IGNORE INTO garbage VALUES (?, ?)", found.orphans)
    if found.orphans:
        done.append(f"{len(found.orphans)} unreferenced blobs were deleted")
    return done


def _drop_rows(connection: sqlite3.Connection) -> Iterator[str]:
    """Remove shares, mounts and values that are not what was written."""
    keys = {"share": ("owner", "path", "grantee"), "mount": ("agent", "name"),
            "kv": ("owner", "key")}  # fmt: skip
    for table, key in keys.items():
        columns = SUMMED[table]
        for *values, total in connection.execute(f"SELECT {columns}, sum FROM {table}").fetchall():
            if row_sum(*values) != total:
                where = " AND ".join(f"{name} = ?" for name in key)
                connection.execute(f"DELETE FROM {table} WHERE {where}", values[: len(key)])
                yield f"{table} {', '.join(map(str, values[: len(key)]))}: removed"


def _keep_folder(connection: sqlite3.Connection, folder: File) -> Iterator[str]:
    """Accept a folder's row as it is."""
    (total,) = connection.execute("SELECT sum FROM file WHERE id = ?", (folder.id,)).fetchone()
    if total != folder.total():
        tree.update(connection, folder._replace(live=1))
        yield f"/{folder.owner}/{folder.path}: the folder's row is kept as it is now; look at it"


def _settle(connection: sqlite3.Connection, file: File) -> Iterator[str]:
    """Bring a file's row in line with the versions that are left."""
    (total,) = connection.execute("SELECT sum FROM file WHERE id = ?", (file.id,)).fetchone()
    name = f"/{file.owner}/{file.path}"
    rows = connection.execute(
        "SELECT version, size, how FROM version WHERE file = ? ORDER BY version DESC", (file.id,)
    ).fetchall()
    newest = next(((v, size) for v, size, how in rows if how != "delete"), None)
    if newest is None:
        connection.execute("DELETE FROM file WHERE id = ?", (file.id,))
        connection.execute("DELETE FROM version WHERE file = ?", (file.id,))
        yield f"{name}: no intact version is left; the file is gone"
        return
    latest = rows[0][0]
    if total != file.total():
        yield f"{name}: its row was not what was written; it is kept as it is now, look at it"
        live = int(rows[0][2] != "delete")
        file = file._replace(live=live, size=newest[1], version=max(file.version, latest))
        tree.update(connection, file)
    if not file.live:
        if latest != file.version:
            tree.update(connection, file._replace(version=latest))
    elif (latest, newest[0]) != (file.version, file.version):
        _go_back(connection, file, *newest)
        yield f"{name}: went back to version {newest[0]}, the newest that is intact"


def _go_back(connection: sqlite3.Connection, file: File, version: int, size: int) -> None:
    """Make a new version with an intact one's content, as a rollback does, without charging it."""
    chunks.close_all(connection, file.id, file.version)
    for part in chunks.extents(connection, file.id, version):
        chunks.put_extent(connection, file.id, file.version + 1, part)
    new = file._replace(version=file.version + 1, size=size, by="repair")
    versions.add(connection, new, "rollback")


def _recount(connection: sqlite3.Connection) -> Iterator[str]:
    """Set reference counts and homes' use from the rows; drop chunks without references."""
    wrong = list(wrong_counts(connection))
    connection.execute(
        "UPDATE chunk SET refs = (SELECT count(*) FROM extent WHERE extent.chunk = chunk.id)"
    )
    connection.execute(
        "INSERT OR IGNORE INTO garbage SELECT store, key FROM chunk"
        " WHERE refs = 0 AND key IS NOT NULL"
    )
    connection.execute("DELETE FROM chunk WHERE refs = 0")
    connection.execute("UPDATE home SET used = 0")
    for owner, used in counted_use(connection).items():
        connection.execute(
            "INSERT INTO home(owner, used) VALUES (?, ?)"
            " ON CONFLICT(owner) DO UPDATE SET used = excluded.used", (owner, used),
        )  # fmt: skip
    yield from (f"{text}: counted again" for text in wrong)
