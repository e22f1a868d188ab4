"""Checks the search index: damage that SQLite does not notice would give wrong hits silently.

Works on a copy, so no search waits. Checks that the words are those of the passages, that each
passage and vector belongs to its document, and that documents are the files in meta.db as they are
now. Everything in the index can be computed again, so a repair rebuilds it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aios.kernel.retrieval.vectors import unpack
from aios.kernel.storage.db.schema import INDEX_FORMAT, reading, remove

REBUILT = "the search index is rebuilt from the files"
_LENGTH_TOLERANCE = 0.05
"""Rounding error of a vector's length, which is 1 (or 0 for a text without meaning)."""
_STRAYS = (
    "SELECT count(*) FROM {table} AS it LEFT JOIN document ON document.file = it.file"
    " WHERE document.owner IS NOT it.owner OR it.{row} < first OR it.{row} >= first + count"
)


class IndexFindings(NamedTuple):
    """``damaged``: it must be rebuilt; otherwise the problems say why it could not be checked."""

    problems: tuple[str, ...] = ()
    damaged: bool = False


def examine(index: Path, files: sqlite3.Connection) -> IndexFindings:
    """Return what is wrong with the index of these files. Blocks, and needs room for a copy."""
    if not index.exists():
        return IndexFindings()
    copy = index.with_name("index.check")
    try:
        remove(copy)
        with closing(reading(index)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            found = tuple(f"the search index: {line}" for line in _look(target, files))
            return IndexFindings(found, bool(found))
    except (sqlite3.Error, OSError) as error:
        code = int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
        damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        return IndexFindings((f"the search index cannot be checked: {error}",), damaged)
    finally:
        remove(copy)


def _look(index: sqlite3.Connection, files: sqlite3.Connection) -> Iterator[str]:
    run = index.execute
    if not run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return  # it is being built
    if run("PRAGMA user_version").fetchone()[0] != INDEX_FORMAT:
        return  # of another version: the kernel converts or rebuilds it
    for (line,) in run("PRAGMA quick_check(1)"):
        if line != "ok":
            yield str(line)
            return
    try:
        run("INSERT INTO passage(passage) VALUES ('integrity-check')")
    except sqlite3.DatabaseError:
        yield "its words are not those of the passages"
    for table, row in (("passage", "rowid"), ("vector", "passage")):
        (strays,) = run(_STRAYS.format(table=table, row=row)).fetchone()
        if strays:
            yield f"{strays} rows of {table} are of no document"
    counts = "SELECT (SELECT sum(count) FROM document), (SELECT count(*) FROM passage)"
    said, there = run(counts).fetchone()
    if (said or 0) != there:
        yield f"it has {there} of {said} passages"
    with np.errstate(all="ignore"):
        wrong = sum(_is_wrong(data) for (data,) in run("SELECT data FROM vector"))
    if wrong:
        yield f"{wrong} vectors are not what was computed"
    outdated = sum(1 for _ in _outdated(index, files))
    if outdated:
        yield f"{outdated} documents are not the files that they claim to be"


def _is_wrong(data: bytes) -> bool:
    length = float(np.linalg.norm(unpack(data))) if len(data) > 4 else 2.0
    return not (length == 0.0 or abs(length - 1.0) < _LENGTH_TOLERANCE)


def _outdated(index: sqlite3.Connection, files: sqlite3.Connection) -> Iterator[int]:
    """Yield documents that pass for up to date but are not; others will still be indexed."""
    known = {
        number: (owner, version, changed)
        for number, owner, version, changed in files.execute(
            "SELECT id, owner, version, changed FROM file WHERE live = 1 AND kind = 'file'"
        )
    }
    for number, owner, version, stamp in index.execute(
        "SELECT file, owner, version, stamp FROM document WHERE file >= 0"
    ):
        file = known.get(number)
        if file and file[2] == stamp and file[:2] != (owner, version):
            yield number
