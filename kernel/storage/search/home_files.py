"""Reading files of homes for the index: which have changed, and their text. Blocks."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from aios.kernel.storage.files import chunks, tree
from aios.kernel.storage.files.blobs import Blobs
from aios.kernel.storage.files.chunks import Source
from aios.kernel.storage.files.tree import File
from aios.syscalls.errors import AiosError

from .passages import Document
from .text import MAX_TEXT_BYTES, decode

log = logging.getLogger("aios.storage")

_BYTES_AT_ONCE = 1 << 20
"""Limit on one batch; commits wait while it is read."""


class Loaded(NamedTuple):
    """A file's row and the parts of its content. ``file`` None: it is gone."""

    id: int
    file: File | None
    parts: list[bytes | Source]


def stale(connection: sqlite3.Connection, known: dict[int, float]) -> list[int]:
    """Return the files that are gone, missing in the index, or changed. ``known``: the indexed
    files and their times of change."""
    rows = dict(connection.execute(
        "SELECT id, changed FROM file WHERE live = 1 AND kind = 'file'"))  # fmt: skip
    return [n for n in rows.keys() | known.keys() if rows.get(n) != known.get(n)]


def load(connection: sqlite3.Connection, numbers: Iterable[int]) -> list[Loaded]:
    """Read the first of these files, until a batch is full."""
    taken: list[Loaded] = []
    size = 0
    for number in numbers:
        taken.append(_load(connection, number))
        file = taken[-1].file
        size += min(file.size, MAX_TEXT_BYTES) if file else 0
        if size >= _BYTES_AT_ONCE:
            break
    return taken


def _load(connection: sqlite3.Connection, number: int) -> Loaded:
    row = connection.execute(
        "SELECT owner, parent, name FROM file WHERE id = ? AND live = 1 AND kind = 'file'",
        (number,),
    ).fetchone()
    try:
        file = tree.find(connection, row[0], f"{row[1]}/{row[2]}".lstrip("/")) if row else None
    except AiosError as error:
        log.warning("search leaves out a file of %s: %s", row[0], error)
        file = None
    if file is None or file.id != number:
        return Loaded(number, None, [])
    try:
        end = min(file.size, MAX_TEXT_BYTES)
        found = chunks.sources(connection, number, file.version, 0, end, file.path)
        parts = [s if s.data is None else s.take(s.data, file.path) for s in found]
    except AiosError as error:
        log.warning("search leaves out %s of %s: %s", file.path, file.owner, error)
        parts = []
    return Loaded(number, file, parts)


def document(blobs: Blobs, loaded: Loaded) -> Document:
    """Fetch a file's blobs and return its text; '' when it cannot be read or is no text."""
    file = loaded.file
    if file is None:
        return Document(loaded.id, "", 0, 0.0, "")
    try:
        data = b"".join(
            part if isinstance(part, bytes)
            else part.take(blobs.store(part.store).get(part.key), file.path)
            for part in loaded.parts
        )  # fmt: skip
    except (AiosError, KeyError) as error:
        log.warning("search leaves out %s of %s: %s", file.path, file.owner, error)
        data = b""
    return Document(file.id, file.owner, file.version, file.changed, decode(data))
