"""``python -m aios.kernel.storage.repair.offline``: check, repair, back up or restore offline.

The command line runs it when no kernel runs. It takes the folder's lock, so no kernel can start on
the folder meanwhile. Exit codes: 0 done, 1 a problem was found or the action failed.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from aios.kernel.storage.db.damage import find_damage
from aios.kernel.storage.db.schema import FORMAT, SUMMED, TABLES, Lock, open_database, remove
from aios.kernel.storage.files.blobs import Blobs
from aios.syscalls import paths
from aios.syscalls.errors import AiosError, InvalidArgument, StorageDamaged
from aios.syscalls.types.storage import BackupReply, StorageReport

from . import backup, check, index_check
from .repair import repair


def main() -> int:
    """Run the program; return its exit code."""
    options = argparse.ArgumentParser()
    options.add_argument("action", choices=("check", "repair", "backup", "restore"))
    options.add_argument("folder", nargs="?")
    options.add_argument("--fast", action="store_true")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    folder = paths.data_dir() / "storage"
    try:
        if not folder.is_dir() and given.action != "restore":
            raise InvalidArgument(f"nothing is stored in {folder}", "start it: aios daemon up")
        lock = Lock(folder)
        try:
            reply, code = _act(given, folder)
        finally:
            lock.close()
    except AiosError as error:
        print(f"aios: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(msgspec.to_builtins(reply), indent=2))
    else:
        print(_text(reply))
    return code


def _act(given: argparse.Namespace, folder: Path) -> tuple[object, int]:
    match given.action:
        case "check":
            report = _check(folder, content=not given.fast)
            return report, int(bool(report.problems))
        case "repair":
            return _repair(folder), 0
        case "backup":
            with _opened(folder) as (connection, blobs):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                copied = backup.backup(folder / "meta.db", blobs, Path(given.folder))
            return BackupReply(given.folder, *copied), 0
        case _:
            old = backup.restore(Path(given.folder), folder)
            return {"restored": given.folder, "replaced": str(old)}, 0


def _text(reply: object) -> str:
    if isinstance(reply, StorageReport):
        lines = [f"{reply.files} files, {reply.versions} versions, {reply.blobs} blobs"]
        lines += [f"problem: {line}" for line in reply.problems]
        lines += [f"mended: {line}" for line in reply.mended]
        if reply.problems and not reply.mended:
            lines.append("  repair it with: aios storage repair; "
                         "or restore a backup: aios storage restore FOLDER")  # fmt: skip
        return "\n".join(lines)
    if isinstance(reply, BackupReply):
        return f"{reply.folder}: {reply.files} files, {reply.size_bytes:,} bytes"
    assert isinstance(reply, dict)
    return f"restored {reply['restored']}; what was there before is in {reply['replaced']}"


@contextmanager
def _opened(folder: Path, *, verify: bool = True) -> Iterator[tuple[sqlite3.Connection, Blobs]]:
    with closing(open_database(folder / "meta.db", verify=verify)) as connection:
        yield connection, backup.open_blobs(folder, connection)


def _check(folder: Path, *, content: bool) -> StorageReport:
    try:
        with _opened(folder) as (connection, blobs):
            found = check.examine(connection, blobs, content)
            if content:
                found.index = index_check.examine(folder / "index.db", connection)
    except StorageDamaged as error:
        return StorageReport(0, 0, 0, [error.message])
    return found.report()


def _repair(folder: Path) -> StorageReport:
    """Repair rows in place; a database with damaged pages is first copied row by row."""
    rescued: list[str] = []
    try:
        with _opened(folder, verify=False) as (connection, _):
            rows = tuple(f"{table} row" for table in SUMMED)
            pages_intact = all(text.startswith(rows) for text in find_damage(connection).problems)
    except (StorageDamaged, sqlite3.DatabaseError):
        pages_intact = False
    if not pages_intact:
        rescued = _rescue(folder)
    with _opened(folder, verify=False) as (connection, blobs):
        found = check.examine(connection, blobs, content=True)
        connection.execute("BEGIN IMMEDIATE")
        repaired = repair(connection, found)
        connection.execute("COMMIT")
        found.index = index_check.examine(folder / "index.db", connection)
        if found.index.damaged:
            remove(folder / "index.db")  # the next kernel rebuilds it
            repaired.append(index_check.REBUILT)
    return found.report(rescued + repaired)


def _rescue(folder: Path) -> list[str]:
    """Copy what can be read of each table into a new database; keep the old one."""
    database, fresh = folder / "meta.db", folder / "rescued.db"
    fresh.unlink(missing_ok=True)
    said = []
    with closing(sqlite3.connect(fresh, isolation_level=None)) as target:
        target.executescript(f"BEGIN; {TABLES} PRAGMA user_version={FORMAT}; COMMIT;")
        tables = [name for (name,) in target.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'")]  # fmt: skip
        with closing(sqlite3.connect(database, isolation_level=None)) as source:
            target.execute("BEGIN")
            for table in tables:
                rows, error = _rows(source, table)
                marks = ", ".join("?" * len(next(iter(rows), ())))
                for row in rows:
                    target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
                said.append(f"table {table}: {len(rows)} rows rescued{error}")
            target.execute("COMMIT")
    old = folder / f"meta.db.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    database.rename(old)
    for suffix in ("-wal", "-shm"):
        log = database.with_name(database.name + suffix)
        if log.exists():
            log.rename(old.with_name(old.name + suffix))
    fresh.rename(database)
    return [*said, f"the damaged database is kept as {old}"]


def _rows(source: sqlite3.Connection, table: str) -> tuple[list[tuple[object, ...]], str]:
    """Read rows from the front up to the damage, and from the back down to it."""
    rows: dict[tuple[object, ...], None] = {}
    error = ""
    key = "rowid" if table in ("file", "chunk", "store") else "1, 2"
    if table in ("meta", "home"):
        key = "1"
    for order in ("ASC", "DESC"):
        try:
            by = ", ".join(f"{column.strip()} {order}" for column in key.split(","))
            for row in source.execute(f"SELECT * FROM {table} ORDER BY {by}"):
                rows[row] = None
            return list(rows), ""
        except sqlite3.DatabaseError as problem:
            error = f"; the rest is lost: {problem}"
    return list(rows), error


if __name__ == "__main__":
    sys.exit(main())
