"""``aios.fs``: files that outlive the agent, with all their versions.

    aios.fs.write("notes/today.md", "# Plan\n")
    aios.fs.append("notes/today.md", "- call Ann\n")
    aios.fs.read_text("notes/today.md")
    aios.fs.history("notes/today.md");  aios.fs.rollback("notes/today.md", 1)
    aios.fs.share("notes", "critic")        # critic reads /shared/planner/notes/today.md

A path is in the agent's own tree: ``/`` is its home (by the agent's name), ``/shared/OWNER/…`` what
others share with it, ``/mnt/NAME/…`` a folder that the operator has mounted. No path leads out of
the tree. A write is atomic, and on disk when it returns. Missing folders are created. When two
agents write one file the last one wins, and the other's content is the version before; with
``expect=`` the second gets VersionConflict instead.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Iterator
from typing import IO, Any, Literal, cast

from aios.syscalls.errors import AiosError, IllegalState, NotFound
from aios.syscalls.types.common import Empty
from aios.syscalls.types.storage import (
    MAX_PART_BYTES,
    FileInfo,
    FsBegin,
    FsData,
    FsDelete,
    FsEnd,
    FsEntries,
    FsFound,
    FsList,
    FsMove,
    FsPart,
    FsPath,
    FsPrune,
    FsPruned,
    FsRead,
    FsRollback,
    FsSearch,
    FsShare,
    FsShared,
    FsShares,
    FsUpload,
    FsUsage,
    FsVersions,
    FsWrite,
    Rights,
    VersionInfo,
)

from . import session

MAX_DIFFED_BYTES = 8 << 20


def read(path: str, *, version: int | None = None) -> bytes:
    """Return a file's content, all from one version. Raises NotFound, PermissionDenied,
    StorageDamaged."""
    with Reader(path, version) as reader:
        return reader.readall()


def read_text(path: str, *, version: int | None = None) -> str:
    """Return a file's content as UTF-8 text. Raises the errors of ``read``, and
    UnicodeDecodeError."""
    return read(path, version=version).decode()


def write(path: str, data: str | bytes, *, expect: int | None = None) -> FileInfo:
    """Replace a file's content; the old content becomes a version.

    ``expect``: the version that it must have now, 0 for none. Raises VersionConflict,
    QuotaExceeded, DiskFull, PermissionDenied.
    """
    content = data.encode() if isinstance(data, str) else data
    if len(content) <= MAX_PART_BYTES:
        return session.call("fs.write", FsWrite(path, content, expect=expect), FileInfo)
    with Writer(path, expect) as writer:
        writer.write(content)
    assert writer.info
    return writer.info


def append(path: str, data: str | bytes) -> FileInfo:
    """Append up to 4 MiB to a file; create it if missing. Raises the errors of ``write``."""
    content = data.encode() if isinstance(data, str) else data
    return session.call("fs.write", FsWrite(path, content, append=True), FileInfo)


def open(path: str, mode: Literal["rb", "wb", "r", "w"] = "rb") -> IO[Any]:
    """Return a file object that streams: for content too large for memory.

    What is written becomes visible at once when the file is closed. If its ``with`` is left by an
    exception, or the agent ends, all of it is discarded.
    """
    if mode in ("rb", "r"):
        reader = io.BufferedReader(Reader(path), 1 << 20)
        return cast(IO[Any], io.TextIOWrapper(reader, "utf-8") if mode == "r" else reader)
    return cast(IO[Any], Writer(path))


class Reader(io.RawIOBase):
    """One version of a file, read in parts. Seekable."""

    def __init__(self, path: str, version: int | None = None) -> None:
        super().__init__()
        self._path, self._at = path, 0
        first = self._piece(0, MAX_PART_BYTES, version)
        self.info: FileInfo = first.info
        self._held = (0, first.data)

    def _piece(self, offset: int, length: int, version: int | None) -> FsData:
        return session.call("fs.read", FsRead(self._path, offset, length, version), FsData)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Continue at another offset."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.info.size_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer; return the number of bytes, 0 at the end."""
        start, data = self._held
        if not start <= self._at < start + len(data):
            if self._at >= self.info.size_bytes:
                return 0
            data = self._piece(self._at, MAX_PART_BYTES, self.info.version or None).data
            if not data:  # only on a mount, which keeps no versions
                raise IllegalState(f"{self.info.path} was cut while it was read", "read it again")
            start = self._at
            self._held = (start, data)
        part = data[self._at - start : self._at - start + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


class Writer(io.RawIOBase):
    """A file written in parts. ``info`` is set when it is closed."""

    def __init__(self, path: str, expect: int | None = None) -> None:
        super().__init__()
        self._upload: int | None
        self._upload = session.call("fs.begin", FsBegin(path, expect), FsUpload).upload
        self._held = bytearray()
        self.info: FileInfo | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: str | bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write bytes, or text as UTF-8. They are sent in parts."""
        if self._upload is None:
            raise ValueError("the file is closed")
        content = data.encode() if isinstance(data, str) else memoryview(data).cast("B")
        self._held += content
        while len(self._held) >= MAX_PART_BYTES:
            self._send(self._upload, MAX_PART_BYTES)
        return len(data)

    def _send(self, upload: int, size: int) -> None:
        part = bytes(self._held[:size])
        del self._held[:size]
        session.call("fs.part", FsPart(upload, part), Empty)

    def close(self) -> None:
        """Make the content the file's next version. Raises the errors of ``aios.fs.write``."""
        upload, self._upload = self._upload, None
        super().close()
        if upload is not None:
            if self._held:
                self._send(upload, len(self._held))
            self.info = session.call("fs.end", FsEnd(upload), FileInfo)

    def discard(self) -> None:
        """Drop the content; the file is not changed."""
        upload, self._upload = self._upload, None
        super().close()
        if upload is not None:
            session.call("fs.drop", FsEnd(upload), Empty)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        try:
            self.discard()
        except AiosError:
            return  # it was dropped already, with the error that is on its way up

    def __del__(self) -> None:
        self._upload = None  # one that was forgotten is no version; the kernel drops it


def list(path: str = "/") -> builtins.list[FileInfo]:
    """Return a folder's entries in order of name."""
    found: builtins.list[FileInfo] = []
    more = True
    while more:
        after = found[-1].path.rpartition("/")[2] if found else ""
        page = session.call("fs.list", FsList(path, after), FsEntries)
        found += page.entries
        more = page.more
    return found


def walk(path: str = "/") -> Iterator[FileInfo]:
    """Yield all files below a folder."""
    for entry in list(path):
        if entry.kind == "folder":
            yield from walk(entry.path)
        else:
            yield entry


def stat(path: str) -> FileInfo:
    """Return what is at a path. Raises NotFound."""
    return session.call("fs.stat", FsPath(path), FileInfo)


def exists(path: str) -> bool:
    """Return True if there is a file or folder at a path."""
    try:
        stat(path)
    except NotFound:
        return False
    return True


def mkdir(path: str) -> FileInfo:
    """Create a folder and those above it. No error if it exists."""
    return session.call("fs.mkdir", FsPath(path), FileInfo)


def delete(path: str, *, recursive: bool = False) -> None:
    """Delete a file, or with ``recursive`` a folder and all in it. Until its versions are pruned,
    ``rollback`` brings a file back, except on a mount."""
    session.call("fs.delete", FsDelete(path, recursive), Empty)


def move(source: str, target: str) -> FileInfo:
    """Rename; the target must not exist.

    Between the home, shares and mounts a file is copied and then deleted. If that is interrupted,
    or the source changes meanwhile (IllegalState), both files stay. Folders move within one tree
    only.
    """
    if _root(source) == _root(target):
        return session.call("fs.move", FsMove(source, target), FileInfo)
    if exists(target):
        raise IllegalState(f"{target} exists", "delete it first, or choose another name")
    with Reader(source) as reader, Writer(target) as writer:
        while part := reader.read(MAX_PART_BYTES):
            writer.write(part)
    if stat(source) != reader.info:
        raise IllegalState(
            f"{source} was changed while it was copied to {target}; both are kept",
            f"delete {target}, and move it again",
        )
    delete(source)
    assert writer.info
    return writer.info


def _root(path: str) -> tuple[str, ...]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return tuple(parts[:2]) if parts and parts[0] in ("shared", "mnt") else ()


def history(path: str) -> builtins.list[VersionInfo]:
    """Return the kept versions of a file, deleted or not, newest first."""
    return session.call("fs.history", FsPath(path), FsVersions).versions


def rollback(path: str, version: int) -> FileInfo:
    """Make an old version's content the newest. Also brings a deleted file back."""
    return session.call("fs.rollback", FsRollback(path, version), FileInfo)


def diff(path: str, old: int, new: int | None = None) -> str:
    """Return a unified diff of two versions as text; ``new`` None: the newest. Empty if they are
    equal.

    Computed in the agent. Raises IllegalState for files that are not text or larger than 8 MiB.
    """
    import difflib  # only here: importing aios is to be quick

    sides = []
    for version in (old, new):
        info, data = _content(path, version)
        try:
            sides.append((f"{info.path}@{info.version}", data.decode().splitlines(keepends=True)))
        except UnicodeDecodeError:
            raise IllegalState(f"version {info.version} of {path} is not text") from None
    (left, before), (right, after) = sides
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(before, after, left, right)
    )


def _content(path: str, version: int | None) -> tuple[FileInfo, bytes]:
    with Reader(path, version) as reader:
        if reader.info.size_bytes > MAX_DIFFED_BYTES:
            raise IllegalState(
                f"{path} has {reader.info.size_bytes:,} bytes; a diff takes {MAX_DIFFED_BYTES:,}",
                "compare the versions in parts: aios.fs.read(path, version=...)",
            )
        return reader.info, reader.readall()


def prune(path: str = "/", *, keep: int = 1) -> FsPruned:
    """Delete old versions below a path for good; each file keeps its newest ``keep``. With 1,
    deleted files are forgotten, too."""
    return session.call("fs.prune", FsPrune(path, keep), FsPruned)


def share(path: str, with_: str, rights: Rights = "read") -> FsShared:
    """Let an agent (by name; ``*``: all) read a file or folder as ``/shared/ME/…``; with ``write``
    also change it.

    The grant is for the path and holds for anything there later. If no agent has used the name yet
    (``unused`` in the result), the grant goes to the first one that does: share with your own agent
    after starting it.
    """
    return session.call("fs.share", FsShare(path, with_, rights), FsShared)


def unshare(path: str, with_: str) -> None:
    """Revoke a grant. Raises NotFound."""
    session.call("fs.share", FsShare(path, with_, None), FsShared)


def shares() -> FsShares:
    """Return what this agent shares (``given``) and what others share with it (``received``)."""
    return session.call("fs.shares", Empty(), FsShares)


def search(
    query: str,
    path: str = "/",
    *,
    limit: int = 10,
    mode: Literal["auto", "keyword", "semantic"] = "auto",
) -> FsFound:
    """Find passages in text files below a path; ``hits``, best first, include all files written
    before the call.

    ``/`` is the home and all mounts that the agent may read, ``/mnt/NAME`` one mount. The result's
    ``mode`` says how it was searched: ``keyword``, ``semantic`` (by meaning) or ``mixed``; ``note``
    says why that is not the requested mode, and which part of a mount was not searched: the first
    search of a large mount ends at its deadline with what is indexed by then.
    """
    return session.call("fs.search", FsSearch(query, path, limit, mode), FsFound)


def usage() -> FsUsage:
    """Return the size and the quota of the home."""
    return session.call("fs.usage", Empty(), FsUsage)
