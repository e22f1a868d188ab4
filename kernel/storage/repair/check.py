"""Finds what is wrong in a storage folder: pages, rows, counts, content and unreferenced blobs.

Only reads, so it can run while a kernel serves from the folder. repair.py repairs the findings.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aios.kernel.storage.db.damage import find_damage
from aios.kernel.storage.db.schema import SUMMED, row_sum
from aios.kernel.storage.files.blobs import Blobs
from aios.kernel.storage.files.quota import OVERHEAD_BYTES
from aios.kernel.storage.files.tree import File
from aios.syscalls.errors import AiosError
from aios.syscalls.types.storage import StorageReport

from .index_check import IndexFindings


@dataclass
class Findings:
    """``bad_chunks``: chunks with missing or wrong content. ``orphans``: unreferenced blobs, by
    store and name. ``index``: what index_check.py found in the search index."""

    problems: list[str] = field(default_factory=list)
    index: IndexFindings = field(default_factory=IndexFindings)
    bad_chunks: set[int] = field(default_factory=set)
    orphans: list[tuple[int, str]] = field(default_factory=list)
    files: int = 0
    versions: int = 0
    blobs: int = 0

    def report(self, repaired: Sequence[str] = ()) -> StorageReport:
        """Return what the operator is told."""
        problems = [*self.problems, *self.index.problems]
        return StorageReport(self.files, self.versions, self.blobs, problems, list(repaired))


class _Broken(NamedTuple):
    file: int
    version: int
    reason: str


def examine(connection: sqlite3.Connection, blobs: Blobs | None, content: bool) -> Findings:
    """Check pages, rows, counts and, with ``content``, every byte of blobs."""
    found = Findings(problems=find_damage(connection).problems)

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
        lambda: found.problems.extend(wrong_counts(connection)),
        orphans,
    ):
        try:
            look()
        except sqlite3.DatabaseError as error:
            found.problems.append(f"this part of the check ended at a damaged page: {error}")
    return found


def _name_broken(connection: sqlite3.Connection, found: Findings) -> None:
    names = {file.id: file for file in all_files(connection)}
    for each in broken_versions(connection, found.bad_chunks):
        file = names.get(each.file)
        name = f"/{file.owner}/{file.path}" if file else f"file {each.file}"
        found.problems.append(f"{name}, version {each.version}: {each.reason}")


def all_files(connection: sqlite3.Connection) -> Iterator[File]:
    """Yield every file row, damaged or not."""
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


def broken_versions(connection: sqlite3.Connection, bad: set[int]) -> list[_Broken]:
    """Return versions with a damaged row, damaged or missing extents, or damaged content."""
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


def wrong_counts(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield a line for each count that is not what the rows add up to."""
    (refs,) = connection.execute(
        "SELECT count(*) FROM chunk LEFT JOIN (SELECT chunk, count(*) AS n FROM extent"
        " GROUP BY chunk) AS uses ON uses.chunk = chunk.id WHERE refs <> coalesce(n, 0)"
    ).fetchone()
    if refs:
        yield f"{refs} chunks have a wrong reference count"
    found = dict(connection.execute("SELECT owner, used FROM home"))
    right = counted_use(connection)
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


def counted_use(connection: sqlite3.Connection) -> dict[str, int]:
    """Return what each home uses in bytes, counted from the rows."""
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
    """Yield blobs of earlier kernels that no row names."""
    try:
        keys = [key for key in blobs.store(blobs.current).names() if blobs.written_before(key)]
    except AiosError:
        return
    known = {key for (key,) in connection.execute(
        "SELECT key FROM chunk WHERE store = ? UNION SELECT key FROM garbage WHERE store = ?",
        (blobs.current, blobs.current),
    )}  # fmt: skip
    yield from ((blobs.current, key) for key in keys if key not in known)
