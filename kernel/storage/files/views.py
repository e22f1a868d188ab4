"""The folders that are in no home: ``/shared``, what leads to a grant in it, ``/mnt``, and the
operator's root. They are made of grants and mounts as they are now.

Functions run on the writing connection, between commits.
"""

from __future__ import annotations

import sqlite3

from aios.syscalls.errors import NotFound, StorageDamaged
from aios.syscalls.types.storage import FileInfo

from . import shares
from . import tree as files
from .paths import Place, joined


def folder(path: str) -> FileInfo:
    """A folder that has no row."""
    return FileInfo(path, "folder", 0, 0, 0.0, "")


def leads_to_grant(connection: sqlite3.Connection, place: Place, agent: str) -> bool:
    """Whether a place under /shared is above something that is shared with the agent."""
    return bool(_granted_below(connection, place, agent))


def entries(connection: sqlite3.Connection, place: Place, agent: str) -> list[FileInfo] | None:
    """What such a folder holds, in order; None when the place is an ordinary one."""
    if place.kind == "homes":
        owners = connection.execute(
            "SELECT owner FROM home UNION SELECT DISTINCT owner FROM file ORDER BY 1"
        )
        return [folder(f"/{owner}") for (owner,) in owners]
    if place.kind == "shares":
        owners_of = sorted({share.owner for share in shares.received(connection, agent)})
        return [folder(f"/shared/{owner}") for owner in owners_of]
    if place.kind == "mounts":
        return [folder(f"/mnt/{mount.name}") for mount in shares.mounts(connection, agent)]
    if place.kind != "shared" or place.owner == agent:
        return None
    granted = _granted_below(connection, place, agent)
    if not granted:
        return None
    found = []
    for name in sorted({path.split("/")[0] for path in granted}):
        path = joined(place.path, name)
        try:
            row = files.find(connection, place.owner, path)
        except StorageDamaged:
            found.append(FileInfo(place.shown(path), "file", 0, 0, 0.0, "", damaged=True))
            continue
        if row and (row.kind == "folder" or name in granted):
            found.append(FileInfo(place.shown(path), row.kind, row.size, row.version,  # type: ignore[arg-type]
                                  row.changed, row.by))  # fmt: skip
    return found


def _granted_below(connection: sqlite3.Connection, place: Place, agent: str) -> set[str]:
    """Granted paths strictly below a place, seen from it; none when a grant covers the place."""
    paths = {share.path[1:] for share in shares.received(connection, agent, place.owner)}
    if not paths and place.owner != agent:
        raise NotFound(f"{place.owner} shares nothing with {agent}", "see: aios.fs.shares()")
    if any(path in ("", place.path) or place.path.startswith(f"{path}/") for path in paths):
        return set()
    start = f"{place.path}/" if place.path else ""
    return {path[len(start) :] for path in paths if path.startswith(start)}
