"""Measurements kept as small JSON files in the cache folder, named by all that they depend on.

A file that is missing, damaged or of another shape counts as none; its content is measured again.
"""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path
from typing import TypeVar

import msgspec
import xxhash

from .durable import replace_file

T = TypeVar("T")


def key(*parts: str) -> str:
    """Return the name of the file whose content depends on these parts."""
    return xxhash.xxh3_64_hexdigest("\0".join(parts).encode())


def machine() -> str:
    """Describe this CPU: its model name and flags, as far as the system gives them."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model name", "flags")))
    return platform.processor()


def read(path: Path, kind: type[T]) -> T | None:
    """Return the value kept at ``path``, or None."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def write(path: Path, value: object) -> None:
    """Keep the value at ``path``. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, msgspec.json.format(msgspec.json.encode(value)), durable=False)
