"""Grants between agents, and the operator's mounts: who may reach what besides its own home.

A grant is of a path in the owner's home, whatever is there. It is looked up in the transaction
that uses it, so one that has been taken back holds for nothing that comes later.
Functions run on the writing connection.
"""

from __future__ import annotations

import sqlite3

from aios.kernel.storage.db.schema import row_sum
from aios.syscalls.errors import NotFound, PermissionDenied, StorageDamaged
from aios.syscalls.types.storage import MountInfo, Rights, ShareInfo

from .paths import ancestors


def share(
    connection: sqlite3.Connection, owner: str, path: str, grantee: str, rights: Rights | None
) -> None:
    """Give, change or (None) take back. Raises NotFound when there is nothing to take."""
    if rights is None:
        found = connection.execute(
            "DELETE FROM share WHERE owner = ? AND path = ? AND grantee = ?", (owner, path, grantee)
        ).rowcount
        if not found:
            raise NotFound(f"/{path} is not shared with {grantee}", "see: aios.fs.shares()")
        return
    row = (owner, path, grantee, rights)
    connection.execute("INSERT OR REPLACE INTO share VALUES (?, ?, ?, ?, ?)", (*row, row_sum(*row)))


def given(connection: sqlite3.Connection, owner: str) -> list[ShareInfo]:
    """What an owner shares."""
    return _rows(connection, "owner = ?", (owner,))


def received(
    connection: sqlite3.Connection, agent: str, owner: str | None = None
) -> list[ShareInfo]:
    """What others, or one of them, share with an agent."""
    found = _rows(connection, "grantee IN (?, '*') AND owner <> ?", (agent, agent))
    return [share for share in found if owner in (None, share.owner)]


def _rows(
    connection: sqlite3.Connection, condition: str, values: tuple[str, ...]
) -> list[ShareInfo]:
    """Those that are what was written: a damaged one grants nothing."""
    shares = []
    for *row, total in connection.execute(
        f"SELECT owner, path, grantee, rights, sum FROM share WHERE {condition}"
        " ORDER BY owner, path, grantee", values,
    ):  # fmt: skip
        if row_sum(*row) == total:
            owner, path, grantee, rights = row
            shares.append(ShareInfo(owner, f"/{path}", grantee, rights))
    return shares


def _check_grants(connection: sqlite3.Connection, owner: str, agent: str) -> None:
    """Raises StorageDamaged when a grant of an owner is damaged that may have been the agent's."""
    for *row, total in connection.execute(
        "SELECT owner, path, grantee, rights, sum FROM share WHERE owner = ?"
        " AND grantee IN (?, '*')", (owner, agent),
    ):  # fmt: skip
        if row_sum(*row) != total:
            raise StorageDamaged(
                f"the grant of /{row[1]} by {owner} is not what was written",
                f"{owner} can share it anew: aios.fs.share",
            )


def require(
    connection: sqlite3.Connection, owner: str, path: str, agent: str, right: Rights
) -> None:
    """Raises PermissionDenied unless a grant of the path, or of a folder above it, covers this."""
    covering = {f"/{folder}" for folder in ancestors(path)}
    rights = {s.rights for s in received(connection, agent, owner) if s.path in covering}
    if "write" in rights or (rights and right == "read"):
        return
    _check_grants(connection, owner, agent)
    text = "shares it for reading only" if rights else "does not share it"
    raise PermissionDenied(
        f"{agent} may not {right} /shared/{owner}/{path}: {owner} {text}",
        f"{owner} can allow it: aios.fs.share('/{path}', '{agent}', '{right}')",
    )


def mount(
    connection: sqlite3.Connection, agent: str, name: str, folder: str | None, writable: bool
) -> None:
    """Add, change or (None) remove a mount. Raises NotFound."""
    if folder is None:
        found = connection.execute(
            "DELETE FROM mount WHERE agent = ? AND name = ?", (agent, name)
        ).rowcount
        if not found:
            raise NotFound(f"{agent} has no mount {name}", "list them: aios storage mounts")
        return
    row = (agent, name, folder, int(writable))
    connection.execute("INSERT OR REPLACE INTO mount VALUES (?, ?, ?, ?, ?)", (*row, row_sum(*row)))


def mounts(connection: sqlite3.Connection, agent: str | None = None) -> list[MountInfo]:
    """All mounts, or an agent's, that are what was written."""
    found = []
    for *row, total in connection.execute(
        "SELECT agent, name, folder, writable, sum FROM mount ORDER BY agent, name"
    ):
        if row_sum(*row) == total and agent in (None, row[0]):
            found.append(MountInfo(row[0], row[1], row[2], bool(row[3])))
    return found


def find_mount(connection: sqlite3.Connection, agent: str, name: str) -> MountInfo:
    """One of an agent's mounts. Raises NotFound."""
    for found in mounts(connection, agent):
        if found.name == name:
            return found
    known = "SELECT 1 FROM mount WHERE agent = ? AND name = ?"
    if connection.execute(known, (agent, name)).fetchone():
        raise StorageDamaged(
            f"mount {name} of {agent} is not what was written",
            f"mount it anew: aios storage mount {agent} FOLDER --name {name}",
        )
    raise NotFound(
        f"nothing is mounted at /mnt/{name} for {agent}",
        f"as the operator, use: aios storage mount {agent} FOLDER --name {name}",
    )
