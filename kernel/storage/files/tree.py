"""The tree of a home: the rows of its files and folders, and how they are found.

Every path is a row with its parent's path and its name; the home itself has none. Functions run on
the writing connection; paths have passed paths.py and the caller's rights have been checked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from aios.kernel.storage.db.schema import FILE_HINT, row_sum
from aios.syscalls.errors import IllegalState, InvalidArgument, NotFound, StorageDamaged

from .paths import RESERVED, joined, parent_and_name
from .quota import OVERHEAD_BYTES, add_used


class Stamp(NamedTuple):
    """The author of a change, and its time (Unix seconds)."""

    by: str
    unix: float


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
        """The path below the owner's home."""
        return joined(self.parent, self.name)

    def total(self) -> int:
        """Return the row's checksum."""
        return row_sum(*self)


_COLUMNS = "id, owner, parent, name, kind, version, size, changed, by, live, sum"


def _file(row: Sequence[object]) -> File:
    """Return the row's file. Raises StorageDamaged."""
    file, intact = _parsed(row)
    if not intact:
        raise StorageDamaged(f"the row of /{file.owner}/{file.path} is not what was written",
                             FILE_HINT)  # fmt: skip
    return file


def _parsed(row: Sequence[object]) -> tuple[File, bool]:
    """Return the row's file, and True if its checksum matches."""
    file = File(*row[:-1])  # type: ignore[arg-type]  # in the order of _COLUMNS
    return file, file.total() == row[-1]


def find(connection: sqlite3.Connection, owner: str, path: str) -> File | None:
    """Return the live file or folder at a path. The home itself is a folder without a row.

    Raises StorageDamaged.
    """
    if not path:
        return File(0, owner, "", "", "folder", 0, 0, 0.0, owner, 1)
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM file WHERE owner = ? AND parent = ? AND name = ? AND live = 1",
        (owner, *parent_and_name(path)),
    ).fetchone()
    if row and not _parsed(row)[1]:  # named as it was asked for: its own name may be damaged
        raise StorageDamaged(f"the row of /{owner}/{path} is not what was written", FILE_HINT)
    return _file(row) if row else None


def recovered(connection: sqlite3.Connection, owner: str, path: str) -> File | None:
    """Return a live file whose row is damaged as its newest version describes it; None if it is
    not certain that the row is this file's."""
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
    """Return the live file or folder at a path. Raises NotFound, StorageDamaged."""
    file = find(connection, owner, path)
    if file is None:
        hint = "it was deleted; bring it back: aios.fs.rollback" if gone(
            connection, owner, path
        ) else "list what there is: aios.fs.list, or: aios storage ls"  # fmt: skip
        raise NotFound(f"there is no file /{path}", hint)
    return file


def gone(connection: sqlite3.Connection, owner: str, path: str) -> File | None:
    """Return the last file deleted at a path, if its versions are kept."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM file WHERE owner = ? AND parent = ? AND name = ? AND live = 0"
        " ORDER BY changed DESC, id DESC LIMIT 1",
        (owner, *parent_and_name(path)),
    ).fetchone()
    return _file(row) if row else None


def children(
    connection: sqlite3.Connection, owner: str, path: str, after: str, most: int
) -> list[File]:
    """Return a folder's entries in order of name; a damaged row has the kind ``damaged``.

    Raises NotFound, IllegalState.
    """
    if get(connection, owner, path).kind != "folder":
        raise IllegalState(f"/{path} is a file, not a folder")
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM file WHERE owner = ? AND parent = ? AND name > ? AND live = 1"
        " ORDER BY name LIMIT ?",
        (owner, path, after, most),
    )
    return [
        file if intact else file._replace(kind="damaged") for file, intact in map(_parsed, rows)
    ]


def below(
    connection: sqlite3.Connection, owner: str, path: str, *, live: bool, whole: bool = False
) -> Iterator[File]:
    """Return everything under a folder, at any depth: live, or deleted and kept.

    ``whole`` leaves damaged rows out; else they raise StorageDamaged.
    """
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
        return (file for file, intact in map(_parsed, rows.fetchall()) if intact)
    return map(_file, rows.fetchall())


# ------------------------------------------------------------------------------ rows


def add(connection: sqlite3.Connection, owner: str, path: str, kind: str, stamp: Stamp) -> File:
    """Add a row for a new path; make the folders above it as needed."""
    parent, name = parent_and_name(path)
    check_name(parent, name)
    make_folders(connection, owner, parent, stamp)
    (number,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM file").fetchone()
    file = File(number, owner, parent, name, kind, 0, 0, stamp.unix, stamp.by, 1)
    connection.execute(
        "INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*file, file.total())
    )
    return file


def check_name(parent: str, name: str) -> None:
    """Raise InvalidArgument for a name that a home may not have."""
    if not parent and name in RESERVED:
        raise InvalidArgument(f"/{name} is a reserved name", "choose another")


def make_folders(connection: sqlite3.Connection, owner: str, path: str, stamp: Stamp) -> None:
    """Make a folder and those above it, as needed. Raises IllegalState if a file is in the way."""
    if not path:
        return
    known = find(connection, owner, path)
    if known is None:
        add(connection, owner, path, "folder", stamp)
        add_used(connection, owner, OVERHEAD_BYTES)
    elif known.kind != "folder":
        raise IllegalState(f"/{path} is a file, so nothing can be in it")


def update(connection: sqlite3.Connection, file: File) -> None:
    """Overwrite a file's row."""
    connection.execute(
        "UPDATE file SET owner = ?, parent = ?, name = ?, kind = ?, version = ?, size = ?,"
        " changed = ?, by = ?, live = ?, sum = ? WHERE id = ?",
        (*file[1:], file.total(), file.id),
    )  # fmt: skip
