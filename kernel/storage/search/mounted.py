"""index.db: which files of mounted folders are in it, each as it was when it was read.

Only the thread of the index calls this. A folder is in it once, by its path on the host, whoever it
is mounted for. What has only been renamed or touched keeps its passages and their vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

from .passages import Document, Passages
from .walk import Seen, State, Text


class Work(NamedTuple):
    """What a folder's index lacks: paths to be read, again or for the first time, and the numbers
    of files that are gone. ``taken``: bytes of text that are in."""

    changed: list[str]
    new: list[str]
    gone: list[int]
    taken: int


class Known(NamedTuple):
    """Where a file is."""

    folder: str
    path: str


def folders(passages: Passages) -> list[str]:
    """Of which there is anything."""
    return [folder for (folder,) in passages.run("SELECT DISTINCT folder FROM mounted")]


def compare(passages: Passages, folder: str, seen: Sequence[Seen]) -> Work:
    """What has to be done. What was only renamed gets its new name at once."""
    known = {
        path: (file, State(size, changed, inode))
        for file, path, size, changed, inode in passages.run(
            "SELECT file, path, size, changed, inode FROM mounted WHERE folder = ?", (folder,)
        )
    }
    changed: list[str] = []
    new: list[Seen] = []
    for each in seen:
        old = known.pop(each.path, None)
        if old is None:
            new.append(each)
        elif old[1] != each.state:
            changed.append(each.path)
    gone = {state: file for file, state in known.values()}
    renamed = {each.path: file for each in new if (file := gone.pop(each.state, None))}
    if renamed:
        with passages.changing():
            for path, file in renamed.items():
                passages.run("UPDATE mounted SET path = ? WHERE file = ?", (path, file))
    kept = set(renamed.values())
    return Work(
        changed,
        [each.path for each in new if each.path not in renamed],
        [file for file, _ in known.values() if file not in kept],
        _taken(passages, folder),
    )


def put(passages: Passages, folder: str, texts: Sequence[Text]) -> int:
    """Take these in; returns the bytes of text that are in of the folder."""
    with passages.changing():
        for text in texts:
            _put(passages, folder, text)
    return _taken(passages, folder)


def _put(passages: Passages, folder: str, text: Text) -> None:
    file, digest = passages.run(
        "SELECT file, digest FROM mounted WHERE folder = ? AND path = ?", (folder, text.path)
    ).fetchone() or (0, b"")
    if text.text is None:
        if file:
            _forget(passages, file)
        return
    new = hashlib.blake2b(text.text.encode(), digest_size=16).digest()
    if not file:
        file = passages.run("SELECT coalesce(min(file), 0) - 1 FROM mounted").fetchone()[0]
    if new != digest:
        passages.replace(Document(file, folder, 0, 0.0, text.text))
    passages.run(
        "INSERT OR REPLACE INTO mounted VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (file, folder, text.path, *text.state, text.taken, text.cut, new),
    )


def _taken(passages: Passages, folder: str) -> int:
    (taken,) = passages.run(
        "SELECT coalesce(sum(taken), 0) FROM mounted WHERE folder = ?", (folder,)
    ).fetchone()
    return int(taken)


def forget(passages: Passages, files: Collection[int]) -> None:
    """Take these out."""
    with passages.changing():
        for file in files:
            _forget(passages, file)


def _forget(passages: Passages, file: int) -> None:
    passages.replace(Document(file, "", 0, 0.0, ""))
    passages.run("DELETE FROM mounted WHERE file = ?", (file,))


# ------------------------------------------------------------------------------ for a search


def find(passages: Passages, file: int) -> Known | None:
    """Where a file of a mounted folder is."""
    row = passages.run("SELECT folder, path FROM mounted WHERE file = ?", (file,)).fetchone()
    return Known(*row) if row else None


def paths(passages: Passages, folder: str) -> list[str]:
    """All that are in."""
    found = passages.run("SELECT path FROM mounted WHERE folder = ? ORDER BY path", (folder,))
    return [path for (path,) in found]


def cut(passages: Passages, folder: str) -> list[str]:
    """Files of which only the beginning is in."""
    found = passages.run("SELECT path FROM mounted WHERE folder = ? AND cut", (folder,))
    return [path for (path,) in found]


def without_vectors(passages: Passages, folder: str) -> list[str]:
    """Files with passages that wait for their vectors."""
    found = passages.run(
        "SELECT path FROM mounted WHERE folder = ? AND file IN"
        " (SELECT file FROM todo WHERE owner = ?)", (folder, folder),
    )  # fmt: skip
    return [path for (path,) in found]
