"""Paths as agents write them, resolved to a place in a home, a share or a mount.

Pure: never looks at a disk. A home has no links and no ``..``, only rows of a table, so a path that
passes here cannot lead anywhere else; below a mount, mount.py guarantees that.

    /…               the caller's home          /AGENT/…   any home, for the operator
    /shared/OWNER/…  what OWNER has shared      /mnt/NAME/…  a folder of the host
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from aios.syscalls.errors import InvalidArgument

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_DEPTH = 32
SHARED, MOUNTS, VALUES = "shared", "mnt", ".kv"
RESERVED = frozenset((SHARED, MOUNTS, VALUES))
_AGENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Place(NamedTuple):
    """Where a path leads. ``path`` is below the home, the share or the mount: '' or 'a/b'.

    The kinds ``shares`` and ``mounts`` are the folders /shared and /mnt themselves; ``homes`` is
    the operator's root. ``owner`` is the home's owner or the mount's name. ``prefix`` and ``path``
    together are the name that the caller uses.
    """

    kind: Literal["home", "shared", "mount", "shares", "mounts", "homes"]
    owner: str
    path: str
    prefix: str

    def shown(self, path: str | None = None) -> str:
        """Return the caller's name of this place, or of another path below the same root."""
        return f"{self.prefix}/{self.path if path is None else path}".rstrip("/") or "/"


def resolve(path: str, agent: str | None) -> Place:
    """Return where a path leads for an agent (None: the operator). Raises InvalidArgument."""
    parts = split(path)
    if agent is None:
        if not parts:
            return Place("homes", "", "", "")
        owner, *rest = parts
        _check_agent(owner, path)
        return Place("home", owner, "/".join(rest), f"/{owner}")
    match parts:
        case ["shared"]:
            return Place("shares", "", "", "/shared")
        case ["shared", owner, *rest]:
            _check_agent(owner, path)
            return Place("shared", owner, "/".join(rest), f"/shared/{owner}")
        case ["mnt"]:
            return Place("mounts", "", "", "/mnt")
        case ["mnt", name, *rest]:
            _check_agent(name, path)
            return Place("mount", name, "/".join(rest), f"/mnt/{name}")
        case [".kv", *_]:
            raise InvalidArgument(f"{_short(path)}: values are not files", "use: aios.kv")
    return Place("home", agent, "/".join(parts), "")


def split(path: str) -> list[str]:
    """Return the names in a path. Raises InvalidArgument with the part and the limit."""
    if _CONTROL.search(path):
        raise InvalidArgument(f"path {path[:80]!r} has a control character (NUL, newline, …)")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidArgument(
            f"path {_short(path)} has '..'", "name it from the root: /notes/a.txt"
        )
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise InvalidArgument(f"path {path[:80]!r} is not valid UTF-8") from None
    if sizes and max(sizes) > MAX_NAME_BYTES:
        raise InvalidArgument(
            f"a name of {max(sizes)} bytes in a path exceeds the limit of {MAX_NAME_BYTES}"
        )
    if sum(sizes) + len(sizes) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH:
        raise InvalidArgument(
            f"a path of {sum(sizes) + len(sizes)} bytes, {len(parts)} names deep, exceeds the "
            f"limit of {MAX_PATH_BYTES} bytes or {MAX_DEPTH} names"
        )
    return parts


def parent_and_name(path: str) -> tuple[str, str]:
    """Split a path: 'a/b/c' → ('a/b', 'c'); 'c' → ('', 'c')."""
    parent, _, name = path.rpartition("/")
    return parent, name


def joined(parent: str, name: str) -> str:
    """Return the path: the reverse of ``parent_and_name``."""
    return f"{parent}/{name}" if parent else name


def ancestors(path: str) -> list[str]:
    """Return the path and all folders above it: 'a/b' → ['', 'a', 'a/b']."""
    parts = path.split("/") if path else []
    return ["/".join(parts[:n]) for n in range(len(parts) + 1)]


def _check_agent(name: str, path: str) -> None:
    if not _AGENT.fullmatch(name):
        raise InvalidArgument(f"path {_short(path)}: {_short(name)} is not an agent's name")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")
