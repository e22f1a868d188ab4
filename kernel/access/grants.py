"""Grants: rights that the operator gave beside the groups, on disk.

One JSON file, replaced whole and synced, so a grant that was acknowledged survives a kill and half
a grant never shows. Read and written under a lock, so kernels of one user may share it. Belongs to
a thread that may block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from aios.syscalls.errors import InvalidArgument, NotFound, ResourceExhausted

MOST_GRANTS = 10_000


class Grant(msgspec.Struct, frozen=True):
    """``subject``: an agent's name (``*`` in it is any text) or @GROUP; ``rule``: with its verb."""

    id: int
    subject: str
    rule: str
    unix: float


class _File(msgspec.Struct, frozen=True):
    version: Annotated[int, Meta(ge=1, le=1)] = 1
    next: int = 1
    grants: tuple[Grant, ...] = ()


class GrantFile:
    """The file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Grant, ...]:
        """All grants, oldest first. Raises InvalidArgument when the file is damaged, OSError."""
        return self._read().grants

    def add(self, subject: str, rule: str) -> tuple[Grant, tuple[Grant, ...]]:
        """Add one, unless it is there; returns it and all. Raises ResourceExhausted, OSError."""
        with self._locked():
            file = self._read()
            for grant in file.grants:
                if (grant.subject, grant.rule) == (subject, rule):
                    return grant, file.grants
            if len(file.grants) >= MOST_GRANTS:
                raise ResourceExhausted(f"there are {MOST_GRANTS:,} grants, the most there can be",
                                        "revoke some: aios perm revoke ID")  # fmt: skip
            grant = Grant(file.next, subject, rule, time.time())
            grants = (*file.grants, grant)
            write_whole(self._path, _text(_File(next=file.next + 1, grants=grants)))
            return grant, grants

    def remove(self, number: int) -> tuple[Grant, tuple[Grant, ...]]:
        """Take one away; returns it and what is left. Raises NotFound, OSError."""
        with self._locked():
            file = self._read()
            found = next((grant for grant in file.grants if grant.id == number), None)
            if found is None:
                raise NotFound(f"there is no grant {number}", "list them with: aios perm ls")
            grants = tuple(grant for grant in file.grants if grant is not found)
            write_whole(self._path, _text(_File(next=file.next, grants=grants)))
            return found, grants

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _read(self) -> _File:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return _File()
        except msgspec.MsgspecError as error:
            raise InvalidArgument(
                f"the grants in {self._path} are damaged: {error}",
                f"mend the file, or begin without grants: mv {self._path} {self._path}.bad",
            ) from None


def _text(file: _File) -> bytes:
    return msgspec.json.format(msgspec.json.encode(file))


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file, private to the user, and sync it: whole or not at all. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
