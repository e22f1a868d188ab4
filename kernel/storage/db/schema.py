"""The tables of storage, how the database is opened, and the checksums of its rows.

    meta.db   names, versions, small content      blobs/   larger content, in files
    index.db  for search; rebuilt when lost       lock     held by the process that has meta.db open

Only one connection ever writes and checkpoints. A commit is on the disk when it returns
(synchronous=FULL).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgpack
import xxhash

from aios.syscalls.errors import StorageDamaged, StorageUnavailable

from . import wal

FORMAT = 1
INDEX_FORMAT = 4
"""The format of index.db; older formats are converted or rebuilt."""
NEWEST = (1 << 62) - 1
"""``last`` of an extent that belongs to the newest version."""
RESTORE_HINT = (
    "with the kernel down, restore a backup: aios storage restore FOLDER; "
    "without one, save what can be read: aios storage repair"
)
FILE_HINT = (
    "older versions may be intact: aios.fs.history, aios.fs.rollback; as the operator: "
    "aios storage repair, or restore a backup: aios storage restore FOLDER; all damage: "
    "aios storage check"
)

TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE store(id INTEGER PRIMARY KEY, url TEXT UNIQUE NOT NULL);
CREATE TABLE home(owner TEXT PRIMARY KEY, used INTEGER NOT NULL, quota INTEGER) WITHOUT ROWID;
CREATE TABLE file(
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, parent TEXT NOT NULL, name TEXT NOT NULL,
    kind TEXT NOT NULL, version INTEGER NOT NULL, size INTEGER NOT NULL, changed REAL NOT NULL,
    by TEXT NOT NULL, live INTEGER NOT NULL, sum INTEGER NOT NULL);
CREATE UNIQUE INDEX file_live ON file(owner, parent, name) WHERE live = 1;
CREATE INDEX file_gone ON file(owner, parent, name) WHERE live = 0;
CREATE TABLE version(
    file INTEGER NOT NULL, version INTEGER NOT NULL, size INTEGER NOT NULL, written REAL NOT NULL,
    by TEXT NOT NULL, how TEXT NOT NULL, sum INTEGER NOT NULL,
    PRIMARY KEY(file, version)) WITHOUT ROWID;
CREATE TABLE extent(
    file INTEGER NOT NULL, last INTEGER NOT NULL, at INTEGER NOT NULL, first INTEGER NOT NULL,
    chunk INTEGER NOT NULL, size INTEGER NOT NULL, sum INTEGER NOT NULL,
    PRIMARY KEY(file, last, at)) WITHOUT ROWID;
CREATE TABLE chunk(
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL, size INTEGER NOT NULL,
    refs INTEGER NOT NULL, store INTEGER, key TEXT, data BLOB);
CREATE UNIQUE INDEX chunk_hash ON chunk(hash) WHERE key IS NOT NULL;
CREATE TABLE garbage(store INTEGER NOT NULL, key TEXT NOT NULL, PRIMARY KEY(store, key))
    WITHOUT ROWID;
CREATE TABLE share(
    owner TEXT NOT NULL, path TEXT NOT NULL, grantee TEXT NOT NULL, rights TEXT NOT NULL,
    sum INTEGER NOT NULL, PRIMARY KEY(owner, path, grantee)) WITHOUT ROWID;
CREATE TABLE mount(
    agent TEXT NOT NULL, name TEXT NOT NULL, folder TEXT NOT NULL, writable INTEGER NOT NULL,
    sum INTEGER NOT NULL, PRIMARY KEY(agent, name)) WITHOUT ROWID;
CREATE TABLE kv(
    owner TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, changed REAL NOT NULL,
    value BLOB NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY(owner, key)) WITHOUT ROWID;
"""

SUMMED = {
    "file": "id, owner, parent, name, kind, version, size, changed, by, live",
    "version": "file, version, size, written, by, how",
    "extent": "file, at, first, chunk, size",
    "share": "owner, path, grantee, rights",
    "mount": "agent, name, folder, writable",
    "kv": "owner, key, version, changed, value",
}
"""The columns that each row's ``sum`` covers. An extent's ``last`` changes in bulk and is not among
them; a wrong one shows as a version whose extents do not add up to its size."""


def row_sum(*values: object) -> int:
    """Return the checksum of a row as a signed 64-bit integer."""
    return int(xxhash.xxh3_64_intdigest(msgpack.packb(values))) - (1 << 63)


class Lock:
    """The lock on a storage folder: one process may open it. It ends with the process."""

    def __init__(self, folder: Path) -> None:
        """Take the lock. Raises StorageUnavailable naming the process that holds it."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageUnavailable(f"cannot open {folder}: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StorageUnavailable(
                f"{folder} is in use by host process {holder or 'unknown'}",
                "end that kernel, or give this one a folder of its own with XDG_DATA_HOME",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._fd)


def open_database(path: Path, *, verify: bool = True) -> sqlite3.Connection:
    """Open the writing connection; create the tables if there are none.

    With ``verify`` a damaged log is an error, because opening would drop the commits behind the
    damage. Raises StorageDamaged if SQLite cannot use the file, StorageUnavailable if it cannot be
    opened.
    """
    torn = wal.find_damage(path.with_name(path.name + "-wal"))
    if torn and verify:
        raise StorageDamaged(f"{path}: {torn}", RESTORE_HINT)
    connection = connect(path)
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version={FORMAT}; COMMIT;")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found != FORMAT:
            raise StorageUnavailable(
                f"{path} has format {found}, this version reads format {FORMAT}",
                "use the version of AIOS that wrote it",
            )
        if not _schema(connection) >= _expected_schema():
            raise StorageDamaged(f"{path}: its schema is not what was written",
                                 RESTORE_HINT)  # fmt: skip
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StorageDamaged(f"{path}: {error}", RESTORE_HINT) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _schema(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def _expected_schema() -> set[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(TABLES)
        return _schema(fresh)


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that commits durably. Raises StorageDamaged, StorageUnavailable."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    except sqlite3.OperationalError as error:
        raise StorageUnavailable(f"cannot open {path}: {error}") from None
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=2000")
        connection.execute("PRAGMA journal_size_limit=67108864")
        connection.execute("PRAGMA cache_size=-16384")
        connection.execute("PRAGMA cell_size_check=1")
    except sqlite3.DatabaseError as error:
        connection.close()
        kind = StorageDamaged if _is_damage(error) else StorageUnavailable
        raise kind(f"{path}: {error}", RESTORE_HINT if _is_damage(error) else "") from None
    return connection


def reading(path: Path) -> sqlite3.Connection:
    """Open a second, read-only connection; it never writes the log back."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA query_only=1")
    connection.execute("PRAGMA cell_size_check=1")
    return connection


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def remove(database: Path) -> None:
    """Delete a database that no process has open, if it exists."""
    for end in ("", "-wal", "-shm", "-journal"):
        database.with_name(database.name + end).unlink(missing_ok=True)
