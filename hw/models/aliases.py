"""Names that the user gave to models, in ``aliases.json`` of the models folder.

A name stands for another name or an absolute path, with LoRA adapters if it has any. Promises that
the file is replaced whole, that names do not lead in a circle, and that a damaged file is an error
with its path rather than no names.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from aios.hw.machine.durable import replace_file

FILE = "aliases.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = frozenset({"default", "fake"})


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA adapter's file, and the weight with which it is added."""

    path: str
    scale: float = 1.0


class Alias(msgspec.Struct, frozen=True):
    """What a name stands for."""

    target: str
    lora: tuple[Adapter, ...] = ()


class BadAlias(LookupError):
    """A name cannot be given, or the file of names cannot be read; the text says why."""


def read(folder: Path) -> dict[str, Alias]:
    """Return the names. Raises BadAlias."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=dict[str, Alias])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        raise BadAlias(f"cannot read {folder / FILE}: {error}; mend or remove it") from None


def give(folder: Path, name: str, alias: Alias) -> None:
    """Give a name to a model, or another model to a name. Raises BadAlias, OSError."""
    if not _NAME.fullmatch(name) or name in _RESERVED or name.lower().endswith(".gguf"):
        raise BadAlias(
            f"{name!r} cannot be given to a model; use letters, digits, '.', '_' and '-', at most "
            "64, and neither default nor fake"
        )
    with _alone(folder):
        names = read(folder) | {name: alias}
        seen, at = {name}, alias.target
        while at in names:
            if at in seen:
                raise BadAlias(f"{name!r} would stand for itself, by way of {at!r}")
            seen.add(at)
            at = names[at].target
        _write(folder, names)


def remove(folder: Path, name: str) -> None:
    """Remove a name. Raises BadAlias, OSError."""
    with _alone(folder):
        names = read(folder)
        names.pop(name, None)
        _write(folder, names)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of the names."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".aliases.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(folder: Path, names: dict[str, Alias]) -> None:
    replace_file(folder / FILE, msgspec.json.format(msgspec.json.encode(names)))
