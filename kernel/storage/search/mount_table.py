"""The table of mounted files in index.db: each file as it was when it was read.

Used by the index's thread. A folder is indexed once, by its path on the host, for all agents that
have it mounted. A file that was only renamed or touched keeps its passages and their vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

from .mount_walk import Seen, State, Text
from .passages import Document, Passages


class Work(NamedTuple):
    """The gaps in a folder's index: paths to read, again or for the first time, and the numbers of
    files that are gone. ``taken``: bytes of text that are indexed."""

    changed: list[str]
    new: list[str]
    gone: list[int]
    taken: int


class Known(NamedTuple):
    """The place of a mounted file."""

    folder: str
    path: str


def folders(passages: Passages) -> list[str]:
    """Return the folders that have indexed files."""
    return [folder for (folder,) in passages.run("SELECT DISTINCT folder FROM mounted")]


def compare(passages: Passages, folder: str, seen: Sequence[Seen]) -> Work:
    """Return what there is to do. A file that was only renamed gets its new name at once."""
    known = _known(passages, folder)
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


def _known(passages: Passages, folder: str) -> dict[str, tuple[int, State]]:
    rows = passages.run(
        "SELECT file, path, size, changed, inode FROM mounted WHERE folder = ?", (folder,)
    )
    return {path: (file, State(*state)) for file, path, *state in rows}


def put(passages: Passages, folder: str, texts: Sequence[Text]) -> int:
    """Index these texts; return the bytes of text that are indexed of the folder."""
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
    """Remove files from the index."""
    with passages.changing():
        for file in files:
            _forget(passages, file)


def _forget(passages: Passages, file: int) -> None:
    passages.replace(Document(file, "", 0, 0.0, ""))
    passages.run("DELETE FROM mounted WHERE file = ?", (file,))


# ------------------------------------------------------------------------------ for a search


def find(passages: Passages, file: int) -> Known | None:
    """Return the place of a mounted file."""
    row = passages.run("SELECT folder, path FROM mounted WHERE file = ?", (file,)).fetchone()
    return Known(*row) if row else None


def paths(passages: Passages, folder: str) -> list[str]:
    """Return the paths of a folder's indexed files."""
    found = passages.run("SELECT path FROM mounted WHERE folder = ? ORDER BY path", (folder,))
    return [path for (path,) in found]


def cut(passages: Passages, folder: str) -> list[str]:
    """Return the paths of files that are indexed only in part."""
    found = passages.run("SELECT path FROM mounted WHERE folder = ? AND cut", (folder,))
    return [path for (path,) in found]


def without_vectors(passages: Passages, folder: str) -> list[str]:
    """Return the paths of files with passages that wait for their vectors."""
    found = passages.run(
        "SELECT path FROM mounted WHERE folder = ? AND file IN"
        " (SELECT file FROM todo WHERE owner = ?)", (folder, folder),
    )  # fmt: skip
    return [path for (path,) in found]
