"""``python -m aios.kernel.memory.restore FILE``: restore lasting notes, without a kernel.

The command line runs it. The whole copy is checked first, and the old notes are put aside, never
deleted. Exit codes: 0 restored, 1 failed.
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

from aios.hw.machine.durable import remove_parts, replacing, sync
from aios.syscalls import paths
from aios.syscalls.errors import AiosError, InvalidArgument, ResourceExhausted

from .store import NoteStore

_SUFFIXES = ("", "-wal", "-shm")
"""Files of one database."""
_HINT = "name a file that `aios memory backup` made"


def main() -> int:
    """Run the program."""
    options = argparse.ArgumentParser()
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
        print(f"{notes} notes restored" + (f"; the old notes are in {old}" if old else ""))
    return 0


def restore(source: Path, place: Path) -> tuple[int, Path | None]:
    """Put a copy in the place of a notes file. Return the number of notes, and where the old file
    is now. Raises AiosError; nothing is replaced then."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if source.exists() and not source.is_file():  # a device might have no end
            raise InvalidArgument(f"{source} is no ordinary file", _HINT)
        remove_parts(place)
        with replacing(place) as fresh:
            shutil.copyfile(source, fresh)
            notes = _verified(source, fresh)
            sync(fresh)  # the old notes stay in place until this has succeeded
            old = _put_aside(place)
    except OSError as error:
        raise ResourceExhausted(
            f"cannot restore {source} to {place}: {error.strerror or error}", "nothing was replaced"
        ) from None
    return notes, old


def _verified(source: Path, fresh: Path) -> int:
    """Return the number of notes in a copy. Raises InvalidArgument if anything is wrong with it."""
    with fresh.open("rb") as file:
        if not file.read(16).startswith(b"SQLite format 3"):
            raise InvalidArgument(f"{source} holds no notes", _HINT)
    store = NoteStore(fresh, lasting=True)
    try:
        notes, damaged, problems = store.reading(store.verify)
        if problems and not damaged:  # the index of words has been rebuilt
            notes, damaged, problems = store.reading(store.verify)
    except (AiosError, sqlite3.Error) as error:
        raise InvalidArgument(f"{source} cannot be read: {error}", _HINT) from None
    finally:
        store.close()
    if damaged or problems:
        first = f"note {damaged[0]}" if damaged else problems[0]
        raise InvalidArgument(f"{source} is damaged, too: {first}", "use another copy")
    return notes


def _put_aside(place: Path) -> Path | None:
    if not place.exists():
        return None
    old = place.with_name(f"replaced-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.db")
    for suffix in _SUFFIXES:
        file = place.with_name(place.name + suffix)
        if file.exists():
            file.rename(old.with_name(old.name + suffix))
    return old


if __name__ == "__main__":
    sys.exit(main())
