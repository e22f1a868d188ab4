"""Changes of files and folders in homes: write, make a folder, delete, move.

Every change is one transaction, every write a version. Promises that a change is made whole or not
at all, and that ``used`` equals what the rows add up to. Functions run on the writing connection;
paths have passed paths.py and the caller's rights have been checked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from aios.syscalls.errors import (
    IllegalState,
    InvalidArgument,
    ResourceExhausted,
    VersionConflict,
)

from . import chunks, tree, versions
from .chunks import Piece
from .paths import parent_and_name
from .quota import OVERHEAD_BYTES, Limits, add_used, charge
from .tree import File, Stamp

MAX_FILES_PER_CALL = 10_000
"""Limit on files that one call may move or delete."""


def write(
    connection: sqlite3.Connection, limits: Limits, owner: str, path: str,
    pieces: Sequence[Piece], stamp: Stamp, *, append: bool = False, expect: int | None = None,
) -> File:  # fmt: skip
    """Make the next version of a file from pieces; ``append`` puts them behind the old content.

    Raises VersionConflict, QuotaExceeded, IllegalState; the caller then undoes the transaction.
    """
    old = tree.find(connection, owner, path)
    _check_expected(path, old, expect)
    if old is None:
        old = tree.gone(connection, owner, path) or tree.add(connection, owner, path, "file", stamp)
    elif old.kind != "file":
        raise IllegalState(f"/{path} is a folder")
    version = old.version + 1
    extends = append and old.live and old.version > 0
    at = old.size if extends else 0
    if at:
        at, pieces = _merged(connection, old, pieces)
    if pieces or not extends:
        chunks.close_all(connection, old.id, version - 1, at)
    chunks.place(connection, old.id, version, at, pieces)
    added = sum(piece.size for piece in pieces)
    new = old._replace(version=version, size=at + added, by=stamp.by, changed=stamp.unix, live=1)
    freed = versions.record(connection, limits, new, "append" if extends else "write")
    more, displaced = OVERHEAD_BYTES + added - freed, OVERHEAD_BYTES + old.size - at
    charge(connection, limits, owner, more, f"writing /{path}", displaced if old.version else 0)
    return new


def _merged(
    connection: sqlite3.Connection, old: File, pieces: Sequence[Piece]
) -> tuple[int, Sequence[Piece]]:
    """Return where an append begins and its pieces; a small one takes the file's tail with it."""
    size = sum(piece.size for piece in pieces)
    small = pieces and all(piece.data is not None for piece in pieces)
    ending = chunks.tail(connection, old.id) if small else None
    if ending is None or len(ending[1]) + size > chunks.TAIL_BYTES:
        return old.size, pieces
    return ending[0], chunks.inline(ending[1] + b"".join(piece.data or b"" for piece in pieces))


def _check_expected(path: str, old: File | None, expect: int | None) -> None:
    found = old.version if old else 0
    if expect is not None and found != expect:
        raise VersionConflict(
            f"/{path} is at version {found}, not {expect}" if found
            else f"/{path} does not exist; version {expect} was expected",
            "read it again, and write with expect= its version now",
        )  # fmt: skip


def mkdir(
    connection: sqlite3.Connection, limits: Limits, owner: str, path: str, stamp: Stamp
) -> File:
    """Make a folder and those above it; return the one that exists if it does."""
    known = tree.find(connection, owner, path)
    if known is None:
        known = tree.add(connection, owner, path, "folder", stamp)
        charge(connection, limits, owner, OVERHEAD_BYTES, f"making /{path}")
    elif known.kind != "folder":
        raise IllegalState(f"/{path} is a file")
    return known


def delete(
    connection: sqlite3.Connection, limits: Limits, owner: str, path: str, stamp: Stamp,
    *, recursive: bool,
) -> list[File]:  # fmt: skip
    """Delete a file or a folder; versions of files stay. Return the deleted files."""
    file = tree.get(connection, owner, path)
    if not path:
        raise InvalidArgument("the home itself cannot be deleted", "delete what is in it")
    if file.kind == "file":
        return [_bury(connection, limits, file, stamp)]
    inside = _bounded(tree.below(connection, owner, path, live=True), path)
    if inside and not recursive:
        raise IllegalState(f"/{path} is not empty", "delete it with recursive=True")
    buried = [_bury(connection, limits, f, stamp) for f in inside if f.kind == "file"]
    folders = [f.id for f in inside if f.kind == "folder"] + [file.id]
    connection.executemany("DELETE FROM file WHERE id = ?", [(number,) for number in folders])
    add_used(connection, owner, -OVERHEAD_BYTES * len(folders))
    return buried


def _bounded(files: Iterator[File], path: str) -> list[File]:
    found = list(files)
    if len(found) > MAX_FILES_PER_CALL:
        raise ResourceExhausted(
            f"/{path} holds {len(found):,} files; the limit of one call is {MAX_FILES_PER_CALL:,}",
            "do it for the folders in it, one by one",
        )
    return found


def _bury(connection: sqlite3.Connection, limits: Limits, file: File, stamp: Stamp) -> File:
    chunks.close_all(connection, file.id, file.version)
    new = file._replace(version=file.version + 1, by=stamp.by, changed=stamp.unix, live=0)
    freed = versions.record(connection, limits, new, "delete")
    add_used(connection, file.owner, OVERHEAD_BYTES - freed)
    return new


def move(
    connection: sqlite3.Connection, owner: str, source: str, target: str, stamp: Stamp
) -> list[File]:
    """Rename within a home; versions go along. Return the moved entry, then all below it."""
    file = tree.get(connection, owner, source)
    if not source or target == source or target.startswith(f"{source}/"):
        raise InvalidArgument(f"/{source} cannot be moved to /{target}")
    if tree.find(connection, owner, target):
        raise IllegalState(f"/{target} exists", "delete it first, or choose another name")
    parent, name = parent_and_name(target)
    tree.check_name(parent, name)
    tree.make_folders(connection, owner, parent, stamp)
    moved = [file._replace(parent=parent, name=name)]
    if file.kind == "folder":
        for inner in _bounded(tree.below(connection, owner, source, live=True), source):
            moved.append(inner._replace(parent=target + inner.parent[len(source) :]))
    for new in moved:
        tree.update(connection, new)
    return moved
