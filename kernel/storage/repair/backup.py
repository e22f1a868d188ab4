"""Backups of a storage folder: a consistent copy, complete or absent, and how it is restored.

A backup is a folder with ``meta.db`` and all blobs that it names, from all stores. It gets its
name when everything in it is on the disk; an interrupted one ends in ``.part``. A restore keeps the
folder's old content in a folder next to the new.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from aios.hw.machine.durable import sync
from aios.kernel.storage.db.schema import open_database, reading
from aios.kernel.storage.files.blobs import Blobs, LocalBlobs, disk_error
from aios.syscalls.errors import InvalidArgument, StorageDamaged, StorageUnavailable

from .check import examine

_ALL = ("meta.db", "meta.db-wal", "meta.db-shm", "meta.clean", "index.db", "index.db-wal",
        "index.db-shm", "blobs")  # fmt: skip


class Copied(NamedTuple):
    """The files and bytes copied into a backup."""

    files: int
    size_bytes: int


def backup(database: Path, blobs: Blobs, target: Path) -> Copied:
    """Copy into a new folder. Blobs must not be deleted meanwhile.

    Raises InvalidArgument, DiskFull, or StorageDamaged with the content that cannot be read.
    """
    if os.path.exists(target):
        raise InvalidArgument(f"{target} exists", "name a folder that does not exist yet")
    part = target.with_name(f"{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True, mode=0o700)
        with closing(reading(database)) as source, closing(
            sqlite3.connect(part / "meta.db", isolation_level=None)
        ) as copy:  # fmt: skip
            source.backup(copy)
            copied = _copy_blobs(copy, blobs, LocalBlobs(part / "blobs"))
            copy.execute("PRAGMA journal_mode=DELETE")
        for path in (part / "meta.db", part):
            sync(path)
        part.rename(target)
        sync(target.parent)
    except OSError as error:
        raise disk_error(error, target) from None
    except sqlite3.Error as error:
        raise StorageDamaged(f"{database} cannot be copied: {error}",
                             "see: aios storage check") from None  # fmt: skip
    finally:
        shutil.rmtree(part, ignore_errors=True)
    size = copied + (target / "meta.db").stat().st_size
    with closing(sqlite3.connect(target / "meta.db")) as done:
        (count,) = done.execute("SELECT count(*) FROM file WHERE live=1 AND kind='file'").fetchone()
    return Copied(count, size)


def _copy_blobs(copy: sqlite3.Connection, blobs: Blobs, target: LocalBlobs) -> int:
    """Copy all blobs into the backup's own local store; return their bytes."""
    size = 0
    for store, key in copy.execute("SELECT store, key FROM chunk WHERE key IS NOT NULL").fetchall():
        try:
            data = blobs.store(store).get(key)
        except KeyError:
            raise StorageDamaged(
                f"blob {key} is missing, so a backup would not be complete",
                "repair the storage first: aios storage repair",
            ) from None
        target.put([(key, data)])
        size += len(data)
    copy.execute("BEGIN")
    copy.execute("INSERT OR IGNORE INTO store(url) VALUES ('')")
    (local,) = copy.execute("SELECT id FROM store WHERE url = ''").fetchone()
    copy.execute("UPDATE chunk SET store = ? WHERE key IS NOT NULL", (local,))
    copy.execute("DELETE FROM garbage")
    copy.execute("COMMIT")
    return size


def restore(source: Path, folder: Path) -> Path:
    """Replace a storage folder's content with a backup; return where the old content is now.

    Every byte of the backup is checked first. The caller holds the folder's lock. Raises
    InvalidArgument, DiskFull, StorageDamaged.
    """
    if not os.path.isfile(source / "meta.db"):
        raise InvalidArgument(f"{source} is not a backup: it has no meta.db",
                              "name the folder that aios storage backup made")  # fmt: skip
    fresh = folder / "restoring"
    old = folder / f"replaced-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(source, fresh)
        _verify(source, fresh)
        for path in [*fresh.rglob("*"), fresh]:
            sync(path)
        old.mkdir(mode=0o700)
        for name in _ALL:
            if (folder / name).exists():
                (folder / name).rename(old / name)
        for name in ("blobs", "meta.db"):
            if (fresh / name).exists():
                (fresh / name).rename(folder / name)
        sync(folder)
    except OSError as error:
        raise disk_error(error, folder) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return old


def _verify(source: Path, folder: Path) -> None:
    try:
        with closing(open_database(folder / "meta.db")) as connection:
            found = examine(connection, open_blobs(folder, connection), content=True)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        problem = found.problems[0] if found.problems else ""
    except (StorageUnavailable, sqlite3.Error) as error:
        problem = str(error).partition("\n")[0]
    if problem:
        raise StorageDamaged(f"the backup {source} is damaged: {problem}", "restore another one")


def open_blobs(folder: Path, connection: sqlite3.Connection) -> Blobs:
    """Open the stores that a database names, for use without a kernel."""
    blobs = Blobs(folder)
    urls = dict(connection.execute("SELECT id, url FROM store"))
    local = next((number for number, url in urls.items() if not url), 0)
    blobs.open(urls, local, boot=1 << 60)  # no kernel is writing: every blob is of an earlier one
    return blobs
