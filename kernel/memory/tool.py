"""``python -m aios.kernel.memory_tool restore FILE``: lasting notes from a copy, without a kernel.

The command line runs it. The copy is read from end to end first, and what was there before is put
aside, never deleted. Exit codes: 0 done, 1 it could not be done.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path

from aios.syscalls import paths
from aios.syscalls.errors import AiosError, InvalidArgument, ResourceExhausted

from .store import NoteStore

_BESIDE = ("", "-wal", "-shm")
_HINT = "name a file that `aios memory backup` made"


def main() -> int:
    """The program."""
    options = argparse.ArgumentParser()
    options.add_argument("action", choices=("restore",))
    options.add_argument("file")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    place = paths.data_dir() / "memory" / "notes.db"
    try:
        notes, old = restore(Path(given.file), place)
    except AiosError as error:
        print(f"aios: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps({"path": str(place), "notes": notes, "replaced": str(old or "")}))
    else:
        print(f"{notes} notes restored" + (f"; what was there before is in {old}" if old else ""))
    return 0


def restore(source: Path, place: Path) -> tuple[int, Path | None]:
    """Put a copy in the place of a notes file; how many notes, and where the old file is now."""
    fresh = place.with_name("restoring.db")
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove(fresh)
        if source.exists() and not source.is_file():  # a device might have no end
            raise InvalidArgument(f"{source} is no ordinary file", _HINT)
        shutil.copyfile(source, fresh)
        notes = _verified(source, fresh)
        old = _put_aside(place)
        fresh.rename(place)
        _sync(place.parent)
    except OSError as error:
        raise ResourceExhausted(
            f"cannot restore {source} to {place}: {error.strerror or error}", "nothing was replaced"
        ) from None
    finally:
        _remove(fresh)
    return notes, old


def _verified(source: Path, fresh: Path) -> int:
    """Its notes. Raises InvalidArgument unless all of it is well."""
    with fresh.open("rb") as file:
        if not file.read(16).startswith(b"SQLite format 3"):
            raise InvalidArgument(f"{source} holds no notes", _HINT)
    store = NoteStore(fresh, lasting=True)
    try:
        notes, damaged, problems = store.reading(store.verify)
        if problems and not damaged:  # the index of words has been mended
            notes, damaged, problems = store.reading(store.verify)
    except (AiosError, sqlite3.Error) as error:
        raise InvalidArgument(f"{source} cannot be read: {error}", _HINT) from None
    finally:
        store.close()
    if damaged or problems:
        first = f"note {damaged[0]}" if damaged else problems[0]
        raise InvalidArgument(f"{source} is damaged, too: {first}", "take another copy")
    _sync(fresh)
    return notes


def _put_aside(place: Path) -> Path | None:
    if not place.exists():
        return None
    old = place.with_name(f"replaced-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.db")
    for end in _BESIDE:
        beside = place.with_name(place.name + end)
        if beside.exists():
            beside.rename(old.with_name(old.name + end))
    return old


def _remove(path: Path) -> None:
    for end in _BESIDE:
        path.with_name(path.name + end).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
