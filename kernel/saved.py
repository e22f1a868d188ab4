"""Saved contexts: conversations under a name, with their KV, across agent runs and kernels.

    contexts/AGENT/NAME.ctx   messages, tokens and the name of the KV file (msgpack)
    contexts/AGENT/NAME-….kv  an image, as in the arena; named anew by each save

Agents of one name see each other's contexts. A KV file that is missing, damaged or of another
model costs a prefill, nothing else: the messages are what counts.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import msgspec

from aios.syscalls.errors import AiosError, NotFound, ResourceExhausted
from aios.syscalls.types import Message, NamedContext

from .model import Model
from .process import Process

MOST_CONTEXTS = 256
"""Of one agent name."""


class _File(msgspec.Struct, frozen=True):
    version: int
    saved_unix: float
    messages: list[Message]
    tokens: bytes
    image: str


class SavedContexts:
    """The folder of saved contexts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(
        self,
        process: Process,
        model: Model,
        name: str,
        messages: list[Message],
        done: Callable[[NamedContext | AiosError], None],
    ) -> None:
        """Write it; ``done`` gets what was saved, or why nothing was. Raises AiosError."""
        folder = self._folder / process.name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ResourceExhausted(f"cannot make {folder}: {error.strerror}") from None
        known = len(list(folder.glob("*.ctx")))
        if known >= MOST_CONTEXTS and not (folder / f"{name}.ctx").exists():
            raise ResourceExhausted(
                f"{process.name} has {known} saved contexts; the limit is {MOST_CONTEXTS}",
                "remove some: aios.context.remove(name)",
            )
        tokens = process.last_tokens
        image = folder / f"{name}-{secrets.token_hex(6)}.kv"

        def written(count: int) -> None:
            kept = tokens[:count].tobytes()
            record = _File(1, time.time(), messages, kept, image.name if count else "")
            try:
                self._replace(folder, name, record)
            except OSError as error:
                image.unlink(missing_ok=True)
                done(ResourceExhausted(f"cannot save context {name}: {error.strerror}",
                                       f"make room in {self._folder}"))  # fmt: skip
            else:
                done(self._row(folder / f"{name}.ctx", record))

        model.save_context(tokens, str(image), written)

    def restore(self, process: Process, model: Model, name: str) -> tuple[list[Message], int]:
        """The messages, and how many tokens of KV came with them. Raises NotFound."""
        path = self._folder / process.name / f"{name}.ctx"
        record = self._read(path)
        if record is None:
            raise NotFound(
                f"{process.name} has no saved context {name!r}",
                "list them: aios.context.saved()",
            )
        tokens = array("i")
        tokens.frombytes(record.tokens)
        if tokens and record.image:
            model.restore_context(tokens, str(path.parent / record.image))
        return record.messages, len(tokens)

    def list(self, process: Process) -> list[NamedContext]:
        """Those of the agent's name."""
        paths = sorted((self._folder / process.name).glob("*.ctx"))
        records = [(path, self._read(path)) for path in paths]
        return [self._row(path, record) for path, record in records if record]

    def remove(self, process: Process, name: str) -> None:
        """Delete it. Raises NotFound."""
        path = self._folder / process.name / f"{name}.ctx"
        record = self._read(path)
        if record is None:
            raise NotFound(f"{process.name} has no saved context {name!r}")
        path.unlink(missing_ok=True)
        if record.image:
            (path.parent / record.image).unlink(missing_ok=True)

    def _replace(self, folder: Path, name: str, record: _File) -> None:
        path = folder / f"{name}.ctx"
        old = self._read(path)
        part = folder / f"{name}.part"
        with part.open("wb") as file:
            file.write(msgspec.msgpack.encode(record))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        if old and old.image:
            (folder / old.image).unlink(missing_ok=True)

    def _read(self, path: Path) -> _File | None:
        """None when there is none, or none that can be read."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            record = msgspec.msgpack.decode(path.read_bytes(), type=_File)
            if record.version == 1 and len(record.tokens) % 4 == 0 and "/" not in record.image:
                return record
        return None

    def _row(self, path: Path, record: _File) -> NamedContext:
        image = path.parent / record.image
        size = path.stat().st_size
        with contextlib.suppress(OSError):
            size += image.stat().st_size if record.image else 0
        return NamedContext(path.stem, record.saved_unix, len(record.tokens) // 4, size)
