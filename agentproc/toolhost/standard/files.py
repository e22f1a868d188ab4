"""Files of mounted folders: list, read, and search by keyword. Read-only.

A path is ``FOLDER/…``, where FOLDER is the name of the mount. Each component is opened relative to
the one before, without following symbolic links, so no path leads outside the folder.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Annotated, Any

from msgspec import Meta

from aios.syscalls.errors import InvalidArgument, NotFound
from aios.tool import Tool, tool

MAX_READ_BYTES = 256 << 10
MAX_INDEXED_FILES = 20_000
MAX_INDEXED_BYTES = 1 << 20
"""Limit on the indexed part of a file; the rest of a larger file is not searched."""
Folders = dict[str, str]


def open_beneath(folders: Folders, path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file or folder and return its descriptor. Raises NotFound, InvalidArgument."""
    name, *steps = [part for part in path.split("/") if part not in ("", ".")] or [""]
    if ".." in steps or "\0" in path:
        raise InvalidArgument(f"{path!r} is not a path inside a folder")
    root = folders.get(name)
    if root is None:
        known = ", ".join(sorted(folders)) or "none (the operator mounts them: --tool-folders)"
        raise NotFound(f"there is no folder {name!r}", f"folders: {known}")
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for index, step in enumerate(steps):
            kind = flags if index == len(steps) - 1 else os.O_RDONLY | os.O_DIRECTORY
            try:
                inner = os.open(
                    step, kind | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=fd
                )
            finally:
                os.close(fd)
            fd = inner
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NotFound(f"{path!r} cannot be opened: {reason}", "see: list_files") from None
    return fd


@contextlib.contextmanager
def opened(folders: Folders, path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a regular file and yield its descriptor."""
    fd = open_beneath(folders, path, flags)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"{path!r} is not a file")
        yield fd
    finally:
        os.close(fd)


def walk(folders: Folders, path: str) -> Iterator[tuple[str, int]]:
    """Yield paths and sizes of the files beneath a folder, in order of name. Links are skipped."""
    fd = open_beneath(folders, path)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            yield path, os.fstat(fd).st_size
            return
        for entry in sorted(os.scandir(fd), key=lambda e: e.name):
            below = f"{path.rstrip('/')}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(NotFound):
                    yield from walk(folders, below)
            elif entry.is_file(follow_symlinks=False):
                yield below, entry.stat(follow_symlinks=False).st_size
    finally:
        os.close(fd)


class Index:
    """An in-memory index of the words of all mounted files. Changed files are indexed again."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._db: sqlite3.Connection | None = None
        self._seen: dict[str, tuple[int, int]] = {}

    def search(self, query: str, limit: int) -> list[dict[str, Any]]:
        """Return the best passages, best first."""
        db = self._db = self._db or _empty_index()
        self._refresh(db)
        words = [word for word in "".join(c if c.isalnum() else " " for c in query).split() if word]
        if not words:
            raise InvalidArgument(f"{query!r} has no words to search for")
        match = " OR ".join(f'"{word}"' for word in words[:50])
        rows = db.execute(
            "SELECT path, snippet(files, 1, '', '', ' … ', 40), -bm25(files) FROM files "
            "WHERE files MATCH ? ORDER BY bm25(files), path LIMIT ?", (match, limit),
        )  # fmt: skip
        return [{"path": path, "text": text, "score": round(s, 4)} for path, text, s in rows]

    def _refresh(self, db: sqlite3.Connection) -> None:
        found: dict[str, tuple[int, int]] = {}
        for name in sorted(self._folders):
            for path, size in walk(self._folders, name):
                if len(found) < MAX_INDEXED_FILES:
                    found[path] = (size, self._changed_ns(path))
        for path in self._seen.keys() - found.keys():
            db.execute("DELETE FROM files WHERE path = ?", (path,))
        for path, state in found.items():
            if self._seen.get(path) != state:
                db.execute("DELETE FROM files WHERE path = ?", (path,))
                with contextlib.suppress(NotFound, InvalidArgument):
                    with opened(self._folders, path) as fd:
                        text = os.read(fd, MAX_INDEXED_BYTES).decode("utf-8", "replace")
                    if "\0" not in text:  # otherwise it is binary
                        db.execute("INSERT INTO files VALUES (?, ?)", (path, text))
        db.commit()
        self._seen = found

    def _changed_ns(self, path: str) -> int:
        try:
            fd = open_beneath(self._folders, path)
        except NotFound:
            return 0
        try:
            return os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)


def _empty_index() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.execute(
        "CREATE VIRTUAL TABLE files USING fts5(path UNINDEXED, text, tokenize='porter unicode61')"
    )
    return db


def tools(folders: Folders) -> list[Tool[..., Any]]:
    """Return the tools on these folders."""
    index = Index(folders)

    @tool(effect="read", idempotent=True)
    def list_files(
        path: str = "", pattern: str = "*", limit: Annotated[int, Meta(ge=1, le=5000)] = 200
    ) -> list[dict[str, Any]]:
        """List the files in a mounted folder and its subfolders, with their sizes.

        path: a folder; empty for all mounted folders
        pattern: pattern of file names, for example *.txt
        limit: maximum number of files
        """
        found = []
        for root in [path] if path else sorted(folders):
            for each, size in walk(folders, root):
                if fnmatch(each.rpartition("/")[2], pattern):
                    found.append({"path": each, "size_bytes": size})
                if len(found) == limit:
                    return found
        return found

    @tool(effect="read", idempotent=True)
    def read_file(
        path: str,
        offset: Annotated[int, Meta(ge=0)] = 0,
        limit: Annotated[int, Meta(ge=1, le=MAX_READ_BYTES)] = 64 << 10,
    ) -> dict[str, Any]:
        """Read a text file of a mounted folder.

        path: the file, for example notes/todo.txt
        offset: first byte to read
        limit: maximum number of bytes
        """
        with opened(folders, path) as fd:
            data = os.pread(fd, limit, offset)
            size = os.fstat(fd).st_size
        end = offset + len(data)
        return {
            "text": data.decode("utf-8", "replace"),
            "size_bytes": size,
            "next_offset": end if end < size else None,
        }

    @tool(effect="read", idempotent=True, timeout=120, name="search_files")
    def search_files(
        query: Annotated[str, Meta(min_length=1, max_length=1000)],
        limit: Annotated[int, Meta(ge=1, le=100)] = 5,
    ) -> list[dict[str, Any]]:
        """Search the mounted folders by keyword. Returns the best passages with their files.

        query: the keywords
        limit: maximum number of passages
        """
        return index.search(query, limit)

    return [list_files, read_file, search_files]
