"""Kept measurements: small JSON files in the cache folder, found by what they depend on.

A file is written whole or not at all. One that is missing, damaged or of another shape counts as
none: what it held is measured again.
"""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import TypeVar

import msgspec
import xxhash

T = TypeVar("T")


def key(*parts: str) -> str:
    """A file's name for all that its content depends on."""
    return xxhash.xxh3_64_hexdigest("\0".join(parts).encode())


def machine() -> str:
    """What distinguishes this CPU from others, as far as the system says."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model name", "flags")))
    return platform.processor()


def read(path: Path, kind: type[T]) -> T | None:
    """What was kept there, or None."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def write(path: Path, value: object) -> None:
    """Keep it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(value)))
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
