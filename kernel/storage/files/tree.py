"""Files and folders of agents' homes: every change is one transaction, every write a version.

Owns the rows of files and versions. Promises that a change is there whole or not at all,
that versions count up and are never used twice, that ``used`` is what the rows say, and that the
oldest versions beyond ``keep`` go. Functions here run on the writing connection; paths have passed
paths.py and the caller's rights have been checked.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from aios.kernel.storage.db.schema import FILE_HINT, row_sum
from aios.syscalls.errors import (
    IllegalState,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    StorageDamaged,
    VersionConflict,
)

from . import chunks
from .chunks import Piece
from .paths import RESERVED, joined, parent_and_name
from .quota import OVERHEAD_BYTES, Limits, add_used, charge

MOST_AT_ONCE = 10_000
"""Files that one call may move or delete."""


class File(NamedTuple):
    """A row of the table ``file``."""

    id: int
    owner: str
    parent: str
    name: str
    kind: str
    version: int
    size: int
    changed: float
    by: str
    live: int

    @property
    def path(self) -> str:
        """Below the owner's home."""
        return joined(self.parent, self.name)

    def total(self) -> int:
        """The row's checksum."""
        return row_sum(*self)


_COLUMNS = "id, owner, parent, name, kind, version, size, changed, by, live, sum"


def _file(row: Sequence[object]) -> File:
    file, whole = _seen(row)
    if not whole:
        raise StorageDamaged(f"the row of /{file.owner}/{file.path} is not what was written",
                             FILE_HINT)  # fmt: skip
    return file


def _seen(row: Sequence[object]) -> tuple[File, bool]:
    """A row, and whether it is what was written."""
    file = File(*row[:-1])  # type: ignore[arg-type]  # in the order of _COLUMNS
    return file, file.total() == row[-1]


def find(connection: sqlite3.Connection, owner: str, path: str) -> File | None:
    """The living file or folder of a path. The home itself is a folder without a row."""
    if not path:
        return File(0, owner, "", "", "folder", 0, 0, 0.0, owner, 1)
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM file WHERE owner = ? AND parent = ? AND name = ? AND live = 1",
        (owner, *parent_and_name(path)),
    ).fetchone()
    if row and not _seen(row)[1]:
        raise StorageDamaged(f"the row of /{owner}/{path} is not what was written", FILE_HINT)
    return _file(row) if row else None


def recovered(connection: sqlite3.Connection, owner: str, path: str) -> File | None:
    """A living file whose row is damaged, as its newest version says it was; None when it is not
    certain that the row is this file's."""
    where = (owner, *parent_and_name(path))
    number = connection.execute(
        "SELECT id FROM file WHERE owner = ? AND parent = ? AND name = ? AND live = 1", where
    ).fetchone()
    row = number and connection.execute(
        "SELECT owner, parent, name FROM file WHERE id = ?", number
    ).fetchone()  # fmt: skip
    newest = connection.execute(
        "SELECT file, version, size, written, by, how, sum FROM version WHERE file = ?"
        " ORDER BY version DESC LIMIT 1", number or (0,),
    ).fetchone()  # fmt: skip
    if row != where or newest is None or row_sum(*newest[:-1]) != newest[-1]:
        return None
    _, version, size, written, by, _, _ = newest
    return File(number[0], *where, "file", version, size, written, by, 1)


def get(connection: sqlite3.Connection, owner: str, path: str) -> File:
    """The same. Raises NotFound."""
    file = find(connection, owner, path)
    if file is None:
        hint = "it was deleted; bring it back: aios.fs.rollback" if gone(
            connection, owner, path
        ) else "list what there is: aios.fs.list, or: aios storage ls"  # fmt: skip
        raise NotFound(f"there is no file /{path}", hint)
    return file


def gone(connection: sqlite3.Connection, owner: str, path: str) -> File | None:
    """The latest deleted file of a path whose versions are kept."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM file WHERE owner = ? AND parent = ? AND name = ? AND live = 0"
        " ORDER BY changed DESC, id DESC LIMIT 1",
        (owner, *parent_and_name(path)),
    ).fetchone()
    return _file(row) if row else None


def children(
    connection: sqlite3.Connection, owner: str, path: str, after: str, most: int
) -> list[File]:
    """A folder's entries in order of name; of the kind ``damaged`` where the row is. Raises
    NotFound, IllegalState."""
    if get(connection, owner, path).kind != "folder":
        raise IllegalState(f"/{path} is a file, not a folder")
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM file WHERE owner = ? AND parent = ? AND name > ? AND live = 1"
        " ORDER BY name LIMIT ?",
        (owner, path, after, most),
    )
    return [file if whole else file._replace(kind="damaged") for file, whole in map(_seen, rows)]


def below(
    connection: sqlite3.Connection, owner: str, path: str, *, live: bool, whole: bool = False
) -> Iterator[File]:
    """Everything under a folder, at any depth; living, or deleted and kept. ``whole``: what is
    damaged is left out, instead of an error."""
    condition, bounds = "", ()  # type: tuple[str, tuple[str, ...]]
    if path:
        condition, bounds = " AND (parent = ? OR parent > ? AND parent < ?)", (
            path, f"{path}/", f"{path}0",
        )  # fmt: skip
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM file WHERE owner = ?{condition} AND live = {int(live)}",
        (owner, *bounds),
    )
    if whole:
        return (file for file, fits in map(_seen, rows.fetchall()) if fits)
    return map(_file, rows.fetchall())


# ------------------------------------------------------------------------------ writing


def write(
    connection: sqlite3.Connection,
    limits: Limits,
    owner: str,
    path: str,
    pieces: Sequence[Piece],
    by: str,
    *,
    append: bool = False,
    expect: int | None = None,
) -> File:
    """Make the next version of a file from pieces of content, or with them behind the old one.

    Raises VersionConflict, QuotaExceeded, IllegalState; nothing has changed then.
    """
    size = sum(piece.size for piece in pieces)
    old = find(connection, owner, path)
    _check_expected(path, old, expect)
    if old is None:
        old = gone(connection, owner, path) or _new(connection, owner, path, "file", by)
    elif old.kind != "file":
        raise IllegalState(f"/{path} is a folder")
    version = old.version + 1
    extends = append and old.live and old.version > 0
    at = old.size if extends else 0
    small = at and all(piece.data is not None for piece in pieces)
    ending = chunks.tail(connection, old.id) if small and pieces else None
    if ending and len(ending[1]) + size <= chunks.TAIL_BYTES:
        at = ending[0]
        pieces = chunks.inline(ending[1] + b"".join(piece.data or b"" for piece in pieces))
    if pieces or not extends:
        chunks.close_all(connection, old.id, version - 1, at)
    chunks.place(connection, old.id, version, at, pieces)
    added = sum(piece.size for piece in pieces)
    new = old._replace(version=version, size=at + added, by=by, changed=time.time(), live=1)
    freed = record(connection, limits, new, "append" if extends else "write")
    more, displaced = OVERHEAD_BYTES + added - freed, OVERHEAD_BYTES + old.size - at
    charge(connection, limits, owner, more, f"writing /{path}", displaced if old.version else 0)
    return new


def _check_expected(path: str, old: File | None, expect: int | None) -> None:
    found = old.version if old else 0
    if expect is not None and found != expect:
        raise VersionConflict(
            f"/{path} is at version {found}, not {expect}" if found
            else f"/{path} does not exist; version {expect} was expected",
            "read it again, and write with expect= its version now",
        )  # fmt: skip


def _new(connection: sqlite3.Connection, owner: str, path: str, kind: str, by: str) -> File:
    """A row for something that was never there, under folders that are made as needed."""
    parent, name = parent_and_name(path)
    if not parent and name in RESERVED:
        raise InvalidArgument(f"/{name} is not a name that a home may have", "choose another")
    make_folders(connection, owner, parent, by)
    (number,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM file").fetchone()
    file = File(number, owner, parent, name, kind, 0, 0, time.time(), by, 1)
    connection.execute(
        "INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*file, file.total())
    )
    return file


def make_folders(connection: sqlite3.Connection, owner: str, path: str, by: str) -> None:
    """The folder of a path, and those above it. Raises IllegalState when a file is in the way."""
    if not path:
        return
    known = find(connection, owner, path)
    if known is None:
        _new(connection, owner, path, "folder", by)
        add_used(connection, owner, OVERHEAD_BYTES)
    elif known.kind != "folder":
        raise IllegalState(f"/{path} is a file, so nothing can be in it")


def record(connection: sqlite3.Connection, limits: Limits, new: File, how: str) -> int:
    """The rows of a file's new version; returns the bytes that versions beyond the kept freed."""
    update(connection, new)
    row = (new.id, new.version, new.size if new.live else 0, new.changed, new.by, how)
    connection.execute("INSERT INTO version VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, row_sum(*row)))
    return forget_before(connection, new.id, new.version - limits.keep + 1)[1]


def update(connection: sqlite3.Connection, file: File) -> None:
    """Write a row anew."""
    connection.execute(
        "UPDATE file SET owner = ?, parent = ?, name = ?, kind = ?, version = ?, size = ?,"
        " changed = ?, by = ?, live = ?, sum = ? WHERE id = ?",
        (*file[1:], file.total(), file.id),
    )  # fmt: skip


def forget_before(connection: sqlite3.Connection, file: int, oldest: int) -> tuple[int, int]:
    """Forget a file's versions before one; how many, and the bytes that it freed."""
    if oldest <= 1:
        return 0, 0
    found = connection.execute(
        "DELETE FROM version WHERE file = ? AND version < ?", (file, oldest)
    ).rowcount
    if not found:
        return 0, 0
    return found, found * OVERHEAD_BYTES + chunks.drop_before(connection, file, oldest)


def mkdir(connection: sqlite3.Connection, limits: Limits, owner: str, path: str, by: str) -> File:
    """Make a folder and those above it; one that is there already is fine."""
    known = find(connection, owner, path)
    if known is None:
        known = _new(connection, owner, path, "folder", by)
        charge(connection, limits, owner, OVERHEAD_BYTES, f"making /{path}")
    elif known.kind != "folder":
        raise IllegalState(f"/{path} is a file")
    return known


def delete(
    connection: sqlite3.Connection, limits: Limits, owner: str, path: str, by: str, recursive: bool
) -> list[File]:
    """Delete a file, or a folder; the files' versions stay. Returns what was deleted."""
    file = get(connection, owner, path)
    if not path:
        raise InvalidArgument("the home itself cannot be deleted", "delete what is in it")
    if file.kind == "file":
        return [_bury(connection, limits, file, by)]
    inside = _some(below(connection, owner, path, live=True), path)
    if inside and not recursive:
        raise IllegalState(f"/{path} is not empty", "delete it with recursive=True")
    buried = [_bury(connection, limits, f, by) for f in inside if f.kind == "file"]
    folders = [f.id for f in inside if f.kind == "folder"] + [file.id]
    connection.executemany("DELETE FROM file WHERE id = ?", [(number,) for number in folders])
    add_used(connection, owner, -OVERHEAD_BYTES * len(folders))
    return buried


def _some(files: Iterator[File], path: str) -> list[File]:
    found = list(files)
    if len(found) > MOST_AT_ONCE:
        raise ResourceExhausted(
            f"/{path} holds {len(found):,} files; one call takes {MOST_AT_ONCE:,}",
            "do it for the folders in it, one by one",
        )
    return found


def _bury(connection: sqlite3.Connection, limits: Limits, file: File, by: str) -> File:
    chunks.close_all(connection, file.id, file.version)
    new = file._replace(version=file.version + 1, by=by, changed=time.time(), live=0)
    freed = record(connection, limits, new, "delete")
    add_used(connection, file.owner, OVERHEAD_BYTES - freed)
    return new


def move(
    connection: sqlite3.Connection, owner: str, source: str, target: str, by: str
) -> list[File]:
    """Rename within a home; versions go along. Returns the moved entry, then all below it."""
    file = get(connection, owner, source)
    if not source or target == source or target.startswith(f"{source}/"):
        raise InvalidArgument(f"/{source} cannot be moved to /{target}")
    if find(connection, owner, target):
        raise IllegalState(f"/{target} exists", "delete it first, or choose another name")
    parent, name = parent_and_name(target)
    if not parent and name in RESERVED:
        raise InvalidArgument(f"/{name} is not a name that a home may have", "choose another")
    make_folders(connection, owner, parent, by)
    moved = [file._replace(parent=parent, name=name)]
    if file.kind == "folder":
        for inner in _some(below(connection, owner, source, live=True), source):
            moved.append(inner._replace(parent=target + inner.parent[len(source) :]))
    for new in moved:
        update(connection, new)
    return moved
