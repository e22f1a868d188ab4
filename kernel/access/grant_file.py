"""Grants on disk: rights that the operator gives in addition to groups.

One JSON file, replaced as a whole and synced: an acknowledged grant survives a kill, and half a
grant is never seen. A lock lets the kernels of one user share the file. Runs on a thread that may
block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from aios.hw.machine.durable import remove_parts, replace_file
from aios.syscalls.errors import InvalidArgument, NotFound, ResourceExhausted

MAX_GRANTS = 10_000


class Grant(msgspec.Struct, frozen=True):
    """``subject``: an agent's name (``*`` matches any text) or @GROUP; ``rule``: with its verb."""

    id: int
    subject: str
    rule: str
    unix: float


class _File(msgspec.Struct, frozen=True):
    version: Annotated[int, Meta(ge=1, le=1)] = 1
    next: int = 1
    grants: tuple[Grant, ...] = ()


class GrantFile:
    """The file of grants."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Grant, ...]:
        """Return all grants, oldest first. Raises InvalidArgument if it is damaged, OSError."""
        return self._read().grants

    def add(self, subject: str, rule: str, unix: float) -> tuple[Grant, tuple[Grant, ...]]:
        """Add a grant unless it exists; return it and all. Raises ResourceExhausted, OSError."""
        with self._locked():
            file = self._read()
            for grant in file.grants:
                if (grant.subject, grant.rule) == (subject, rule):
                    return grant, file.grants
            if len(file.grants) >= MAX_GRANTS:
                raise ResourceExhausted(f"there are {MAX_GRANTS:,} grants, which is the limit",
                                        "revoke some: aios perm revoke ID")  # fmt: skip
            grant = Grant(file.next, subject, rule, unix)
            grants = (*file.grants, grant)
            replace_file(self._path, _text(_File(next=file.next + 1, grants=grants)))
            return grant, grants

    def remove(self, number: int) -> tuple[Grant, tuple[Grant, ...]]:
        """Remove a grant; return it and the others. Raises NotFound, OSError."""
        with self._locked():
            file = self._read()
            found = next((grant for grant in file.grants if grant.id == number), None)
            if found is None:
                raise NotFound(f"there is no grant {number}", "list them with: aios perm ls")
            grants = tuple(grant for grant in file.grants if grant is not found)
            replace_file(self._path, _text(_File(next=file.next, grants=grants)))
            return found, grants

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            remove_parts(self._path)
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
                f"fix the file, or start without grants: mv {self._path} {self._path}.bad",
            ) from None


def _text(file: _File) -> bytes:
    return msgspec.json.format(msgspec.json.encode(file))
