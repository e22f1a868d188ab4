"""Finds what is wrong in a storage folder, and mends what can be mended without guessing.

``examine`` only reads, so it can run beside a kernel that serves. ``repair`` runs in one
transaction on the writing connection. Content that is lost cannot be made again: the versions that
had it are dropped, and a file goes back to its newest whole version. Grants and mounts that are not
as they were written are removed, never guessed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from aios.kernel.storage.db.damage import damage
from aios.kernel.storage.db.schema import SUMMED, row_sum
from aios.kernel.storage.files import chunks
from aios.kernel.storage.files import tree as files
from aios.kernel.storage.files.blobs import Blobs
from aios.kernel.storage.files.quota import OVERHEAD_BYTES
from aios.kernel.storage.files.tree import File
from aios.syscalls.errors import AiosError

from .index_check import IndexFindings


@dataclass
class Findings:
    """``bad_chunks``: whose content is not there or not right. ``orphans``: blobs of nobody.
    ``index``: of search, which is looked at in index_check.py."""

    problems: list[str] = field(default_factory=list)
    index: IndexFindings = field(default_factory=IndexFindings)
    bad_chunks: set[int] = field(default_factory=set)
    orphans: list[tuple[int, str]] = field(default_factory=list)
    files: int = 0
    versions: int = 0
    blobs: int = 0


class _Broken(NamedTuple):
    file: int
    version: int
    reason: str


def examine(connection: sqlite3.Connection, blobs: Blobs | None, content: bool) -> Findings:
    """Look at pages, rows, counts and, with ``content``, at every byte."""
    found = Findings(problems=damage(connection).problems)

    def count() -> None:
        run = connection.execute
        found.files = run("SELECT count(*) FROM file WHERE live=1 AND kind='file'").fetchone()[0]
        found.versions = run("SELECT count(*) FROM version").fetchone()[0]
        found.blobs = run("SELECT count(*) FROM chunk WHERE key IS NOT NULL").fetchone()[0]

    def orphans() -> None:
        found.orphans = list(_orphans(connection, blobs)) if blobs else []

    for look in (
        count,
        lambda: _check_chunks(connection, blobs, content, found),
        lambda: _name_broken(connection, found),
        lambda: found.problems.extend(_wrong_counts(connection)),
        orphans,
    ):
        try:
            look()
        except sqlite3.DatabaseError as error:
            found.problems.append(f"damaged pages end this part of the check: {error}")
    return found


def _name_broken(connection: sqlite3.Connection, found: Findings) -> None:
    names = {file.id: file for file in _all_files(connection)}
    for each in _broken_versions(connection, found.bad_chunks):
        file = names.get(each.file)
        name = f"/{file.owner}/{file.path}" if file else f"file {each.file}"
        found.problems.append(f"{name}, version {each.version}: {each.reason}")


def _all_files(connection: sqlite3.Connection) -> Iterator[File]:
    for row in connection.execute(f"SELECT {SUMMED['file']} FROM file"):
        yield File(*row)


def _check_chunks(
    connection: sqlite3.Connection, blobs: Blobs | None, content: bool, found: Findings
) -> None:
    for number, digest, size, store, key in connection.execute(
        "SELECT id, hash, size, store, key FROM chunk"
    ).fetchall():
        reason = ""
        if key is None:
            (data,) = connection.execute("SELECT data FROM chunk WHERE id=?", (number,)).fetchone()
            if hashlib.sha256(data or b"").digest() != digest:
                reason = "its row is not what was written"
        elif content and blobs:
            try:
                data = blobs.store(store).get(key)
                if len(data) != size or hashlib.sha256(data).digest() != digest:
                    reason = f"blob {key} is not what was written"
            except KeyError:
                reason = f"blob {key} is missing"
            except AiosError as error:
                reason = f"blob {key} cannot be read: {error.message}"
        if reason:
            found.bad_chunks.add(number)
            found.problems.append(f"content {digest.hex()[:16]}: {reason}")


def _broken_versions(connection: sqlite3.Connection, bad: set[int]) -> list[_Broken]:
    """Versions whose extents are damaged, have gaps, or have content that is."""
    extents: dict[int, list[tuple[int, int, int, int, bool]]] = defaultdict(list)
    for file, last, at, first, chunk, size, total in connection.execute(
        "SELECT file, last, at, first, chunk, size, sum FROM extent ORDER BY file, at"
    ):
        whole = row_sum(file, at, first, chunk, size) == total and chunk not in bad
        extents[file].append((first, last, at, size, whole))
    broken = []
    for file, version, size, how, total, *row in connection.execute(
        "SELECT file, version, size, how, sum, written, by FROM version"
    ):
        if row_sum(file, version, size, *row, how) != total:
            broken.append(_Broken(file, version, "its row is not what was written"))
            continue
        at = 0
        for first, last, start, length, whole in extents[file] if how != "delete" else ():
            if first <= version <= last:
                if start != at or not whole:
                    broken.append(_Broken(file, version, f"its content is damaged at byte {at}"))
                    break
                at += length
        else:
            if at != (0 if how == "delete" else size):
                broken.append(_Broken(file, version, f"it has {at} of its {size} bytes"))
    return broken


def _wrong_counts(connection: sqlite3.Connection) -> Iterator[str]:
    (refs,) = connection.execute(
        "SELECT count(*) FROM chunk LEFT JOIN (SELECT chunk, count(*) AS n FROM extent"
        " GROUP BY chunk) AS uses ON uses.chunk = chunk.id WHERE refs <> coalesce(n, 0)"
    ).fetchone()
    if refs:
        yield f"{refs} pieces of content have a wrong count of uses"
    found = dict(connection.execute("SELECT owner, used FROM home"))
    right = _used(connection)
    for owner in sorted(found.keys() | right.keys()):
        if found.get(owner, 0) != right.get(owner, 0):
            yield (f"the home of {owner} counts {found.get(owner, 0):,} bytes; "
                   f"it holds {right.get(owner, 0):,}")  # fmt: skip
    (lost,) = connection.execute(
        "SELECT count(*) FROM file WHERE kind='file' AND NOT EXISTS (SELECT 1 FROM version"
        " WHERE version.file = file.id AND version.version = file.version)"
    ).fetchone()
    if lost:
        yield f"{lost} files lack their newest version"


def _used(connection: sqlite3.Connection) -> dict[str, int]:
    used: dict[str, int] = defaultdict(int)
    for sql in (
        "SELECT owner, sum(extent.size) FROM extent JOIN file ON file.id=file GROUP BY owner",
        f"SELECT owner, {OVERHEAD_BYTES} * count(*) FROM version JOIN file ON file.id=file"
        " GROUP BY owner",
        f"SELECT owner, {OVERHEAD_BYTES} * count(*) FROM file WHERE kind='folder' GROUP BY owner",
        f"SELECT owner, sum(length(CAST(key AS BLOB)) + length(value) + {OVERHEAD_BYTES}) FROM kv"
        " GROUP BY owner",
    ):
        for owner, size in connection.execute(sql):
            used[owner] += size
    return used


def _orphans(connection: sqlite3.Connection, blobs: Blobs) -> Iterator[tuple[int, str]]:
    """Blobs of earlier runs that no row names: a killed kernel's."""
    try:
        keys = [key for key in blobs.store(blobs.current).names() if blobs.written_before(key)]
    except AiosError:
        return
    known = {key for (key,) in connection.execute(
        "SELECT key FROM chunk WHERE store = ? UNION SELECT key FROM garbage WHERE store = ?",
        (blobs.current, blobs.current),
    )}  # fmt: skip
    yield from ((blobs.current, key) for key in keys if key not in known)


# ------------------------------------------------------------------------------ repair


def repair(connection: sqlite3.Connection, found: Findings) -> list[str]:
    """Mend; returns what was done. Blobs that became garbage are to be swept afterwards."""
    connection.execute("REINDEX")  # so that rows are found under the names that they have now
    mended = list(_drop_rows(connection))
    for each in _broken_versions(connection, found.bad_chunks):
        connection.execute(
            "DELETE FROM version WHERE file = ? AND version = ?", (each.file, each.version)
        )
    for file in list(_all_files(connection)):
        has_versions = connection.execute("SELECT 1 FROM version WHERE file = ?", (file.id,))
        if file.kind == "file" or has_versions.fetchone():
            mended += _settle(connection, file._replace(kind="file"))
        else:
            mended += _keep_folder(connection, file._replace(kind="folder"))
    connection.execute(
        "DELETE FROM extent WHERE NOT EXISTS (SELECT 1 FROM version WHERE"
        " version.file = extent.file AND version BETWEEN first AND last AND how <> 'delete')"
    )
    mended += _recount(connection)
    connection.executemany("INSERT OR IGNORE INTO garbage VALUES (?, ?)", found.orphans)
    if found.orphans:
        mended.append(f"{len(found.orphans)} blobs that nothing names were deleted")
    return mended


def _drop_rows(connection: sqlite3.Connection) -> Iterator[str]:
    """Rows of grants, mounts and values that are not what was written."""
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
    (total,) = connection.execute("SELECT sum FROM file WHERE id = ?", (folder.id,)).fetchone()
    if total != folder.total():
        files.update(connection, folder._replace(live=1))
        yield f"/{folder.owner}/{folder.path}: the folder's row is kept as it is now, look at it"


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
        yield f"{name}: no whole version is left; the file is gone"
        return
    if total != file.total():
        yield f"{name}: its row was not what was written; it is kept as it is now, look at it"
        live = int(rows[0][2] != "delete")
        file = file._replace(live=live, size=newest[1], version=max(file.version, rows[0][0]))
        files.update(connection, file)
    if file.live and rows[0][0] == file.version and newest[0] == file.version:
        return
    if not file.live and rows[0][0] == file.version:
        return
    if not file.live:
        files.update(connection, file._replace(version=rows[0][0]))
        return
    chunks.close_all(connection, file.id, file.version)
    for part in chunks.extents(connection, file.id, newest[0]):
        chunks.put_extent(connection, file.id, file.version + 1, part)
    new = file._replace(version=file.version + 1, size=newest[1], by="repair")
    files.update(connection, new)
    row = (new.id, new.version, new.size, new.changed, new.by, "rollback")
    connection.execute("INSERT INTO version VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, row_sum(*row)))
    yield f"{name}: went back to version {newest[0]}, the newest that is whole"


def _recount(connection: sqlite3.Connection) -> Iterator[str]:
    wrong = list(_wrong_counts(connection))
    connection.execute(
        "UPDATE chunk SET refs = (SELECT count(*) FROM extent WHERE extent.chunk = chunk.id)"
    )
    connection.execute(
        "INSERT OR IGNORE INTO garbage SELECT store, key FROM chunk"
        " WHERE refs = 0 AND key IS NOT NULL"
    )
    connection.execute("DELETE FROM chunk WHERE refs = 0")
    connection.execute("UPDATE home SET used = 0")
    for owner, used in _used(connection).items():
        connection.execute(
            "INSERT INTO home(owner, used) VALUES (?, ?)"
            " ON CONFLICT(owner) DO UPDATE SET used = excluded.used", (owner, used),
        )  # fmt: skip
    yield from (f"{text}: counted anew" for text in wrong)
