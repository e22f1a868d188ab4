"""Replacing a file: the new content stands there whole, or the old content stays.

The content is first written to a temporary file in the same folder, ``.NAME.THREAD.part``, which is
then renamed. A failure removes that file. A kill may leave it for
``remove_parts``. Threads and processes may replace the same file concurrently: the last rename
wins.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


def replace_file(
    path: Path, data: str | bytes | memoryview, *, mode: int = 0o600, durable: bool = True
) -> None:
    """Replace the file, or create it; text is written as UTF-8.

    With ``durable`` it survives a power cut once this returns: file and folder are synced. Raises
    OSError; the old content is then still there, unless only syncing the folder failed.
    """
    content = data.encode() if isinstance(data, str) else data
    with replacing(path, durable=durable) as part:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(content)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give the block a path to write a new file at; the file replaces ``path`` after the block.

    Raises OSError, as ``replace_file`` does.
    """
    part = path.with_name(f".{path.name}.{threading.get_native_id()}.part")
    try:
        yield part
        if durable:
            sync(part)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


def remove_parts(path: Path) -> None:
    """Remove temporary files that killed processes left beside a file, which nobody writes now."""
    for part in path.parent.glob(f".{path.name}.*.part*"):
        with contextlib.suppress(OSError):
            part.unlink()


def sync(path: Path) -> None:
    """Write a file or folder to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
