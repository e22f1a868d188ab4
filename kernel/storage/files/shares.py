"""Shares: which paths of its home an agent lets others read or write.

A share is of a path in the owner's home, even if nothing exists there any more. It is looked up in
the transaction that uses it, so a share that was taken back allows nothing afterwards. Functions
run on the writing connection.
"""

from __future__ import annotations

import sqlite3

from aios.kernel.storage.db.schema import row_sum
from aios.syscalls.errors import NotFound, PermissionDenied, StorageDamaged
from aios.syscalls.types.storage import Rights, ShareInfo

from .paths import Place, ancestors


def share(
    connection: sqlite3.Connection, owner: str, path: str, grantee: str, rights: Rights | None
) -> None:
    """Share a path, change a share or (None) take it back. Raises NotFound if there is none."""
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
    """Return what an owner shares."""
    return [share for share, intact in _rows(connection, "owner = ?", (owner,)) if intact]


def received(
    connection: sqlite3.Connection, agent: str, owner: str | None = None
) -> list[ShareInfo]:
    """Return what others, or one of them, share with an agent. A damaged share allows nothing."""
    rows = _rows(connection, "grantee IN (?, '*') AND owner <> ?", (agent, agent))
    return [share for share, intact in rows if intact and owner in (None, share.owner)]


def _rows(
    connection: sqlite3.Connection, condition: str, values: tuple[str, ...]
) -> list[tuple[ShareInfo, bool]]:
    """Return shares, each with True if its checksum matches."""
    rows = connection.execute(
        f"SELECT owner, path, grantee, rights, sum FROM share WHERE {condition}"
        " ORDER BY owner, path, grantee", values,
    )  # fmt: skip
    return [
        (ShareInfo(owner, f"/{path}", grantee, rights),
         row_sum(owner, path, grantee, rights) == total)
        for owner, path, grantee, rights, total in rows
    ]  # fmt: skip


def allow(connection: sqlite3.Connection, place: Place, agent: str, right: Rights) -> None:
    """Raise PermissionDenied if a place is another agent's and no share covers it."""
    if place.kind != "shared" or agent == place.owner:
        return
    owner, path = place.owner, place.path
    covering = {f"/{folder}" for folder in ancestors(path)}
    rights = {s.rights for s in received(connection, agent, owner) if s.path in covering}
    if "write" in rights or (rights and right == "read"):
        return
    _check_intact(connection, owner, agent)
    text = "shares it for reading only" if rights else "does not share it"
    raise PermissionDenied(
        f"{agent} may not {right} /shared/{owner}/{path}: {owner} {text}",
        f"{owner} can allow it: aios.fs.share('/{path}', '{agent}', '{right}')",
    )


def _check_intact(connection: sqlite3.Connection, owner: str, agent: str) -> None:
    """Raise StorageDamaged if a share is damaged that may have been the agent's."""
    for share, intact in _rows(connection, "owner = ? AND grantee IN (?, '*')", (owner, agent)):
        if not intact:
            raise StorageDamaged(
                f"the share of {share.path} by {owner} is not what was written",
                f"{owner} can share it again: aios.fs.share",
            )
