"""The list of mounts: which folder of the host is mounted for which agent.

Functions run on the writing connection; what is in the folders is read by mount.py.
"""

from __future__ import annotations

import sqlite3

from aios.kernel.storage.db.schema import row_sum
from aios.syscalls.errors import NotFound, StorageDamaged
from aios.syscalls.types.storage import MountInfo


def set_mount(
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
    """Return all mounts, or an agent's. A damaged row mounts nothing."""
    found = []
    for *row, total in connection.execute(
        "SELECT agent, name, folder, writable, sum FROM mount ORDER BY agent, name"
    ):
        if row_sum(*row) == total and agent in (None, row[0]):
            found.append(MountInfo(row[0], row[1], row[2], bool(row[3])))
    return found


def find_mount(connection: sqlite3.Connection, agent: str, name: str) -> MountInfo:
    """Return one of an agent's mounts. Raises NotFound, StorageDamaged."""
    for found in mounts(connection, agent):
        if found.name == name:
            return found
    known = "SELECT 1 FROM mount WHERE agent = ? AND name = ?"
    if connection.execute(known, (agent, name)).fetchone():
        raise StorageDamaged(
            f"mount {name} of {agent} is not what was written",
            f"mount it again: aios storage mount {agent} FOLDER --name {name}",
        )
    raise NotFound(
        f"nothing is mounted at /mnt/{name} for {agent}",
        f"as the operator, use: aios storage mount {agent} FOLDER --name {name}",
    )
