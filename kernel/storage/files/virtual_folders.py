"""Folders without rows: ``/shared``, the folders in it that lead to a share, ``/mnt``, and the
operator's root. They are computed from shares and mounts at each look.

Functions run on the writing connection, between commits.
"""

from __future__ import annotations

import sqlite3

from aios.syscalls.errors import NotFound, StorageDamaged
from aios.syscalls.types.storage import FileInfo

from . import mount_list, shares, tree
from .paths import Place, joined


def folder(path: str) -> FileInfo:
    """Return what a folder without a row looks like."""
    return FileInfo(path, "folder", 0, 0, 0.0, "")


def leads_to_share(connection: sqlite3.Connection, place: Place, agent: str) -> bool:
    """Return True if a place under /shared is above something shared with the agent."""
    return bool(_shared_below(connection, place, agent))


def entries(connection: sqlite3.Connection, place: Place, agent: str) -> list[FileInfo] | None:
    """Return what such a folder holds, in order; None if the place is an ordinary one."""
    if place.kind == "homes":
        owners = connection.execute(
            "SELECT owner FROM home UNION SELECT DISTINCT owner FROM file ORDER BY 1"
        )
        return [folder(f"/{owner}") for (owner,) in owners]
    if place.kind == "shares":
        owners_of = sorted({share.owner for share in shares.received(connection, agent)})
        return [folder(f"/shared/{owner}") for owner in owners_of]
    if place.kind == "mounts":
        return [folder(f"/mnt/{mount.name}") for mount in mount_list.mounts(connection, agent)]
    if place.kind != "shared" or place.owner == agent:
        return None
    shared = _shared_below(connection, place, agent)
    if not shared:
        return None
    found = []
    for name in sorted({path.split("/")[0] for path in shared}):
        path = joined(place.path, name)
        try:
            row = tree.find(connection, place.owner, path)
        except StorageDamaged:
            found.append(FileInfo(place.shown(path), "file", 0, 0, 0.0, "", damaged=True))
            continue
        if row and (row.kind == "folder" or name in shared):
            found.append(FileInfo(place.shown(path), row.kind, row.size, row.version,  # type: ignore[arg-type]
                                  row.changed, row.by))  # fmt: skip
    return found


def _shared_below(connection: sqlite3.Connection, place: Place, agent: str) -> set[str]:
    """Return shared paths strictly below a place, relative to it; none if a share covers it."""
    paths = {share.path[1:] for share in shares.received(connection, agent, place.owner)}
    if not paths and place.owner != agent:
        raise NotFound(f"{place.owner} shares nothing with {agent}", "see: aios.fs.shares()")
    if any(path in ("", place.path) or place.path.startswith(f"{path}/") for path in paths):
        return set()
    start = f"{place.path}/" if place.path else ""
    return {path[len(start) :] for path in paths if path.startswith(start)}
