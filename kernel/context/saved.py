"""Saved contexts: conversations under a name, with their KV, across agent runs and kernels.

    contexts/AGENT/NAME.ctx   messages, tokens and the name of the KV file (msgpack)
    contexts/AGENT/NAME-….kv  an image, as in the arena; named anew by each save

Agents of one name have the same contexts; whether others may have them is asked elsewhere. A KV
file that is missing, damaged or of another model costs a prefill, nothing else: the messages are
what counts. Files are read and written by the worker; a context is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.syscalls.errors import AiosError, NotFound, ResourceExhausted
from aios.syscalls.types.chat import ContextReply, Message, NamedContext

from .imaging import Written

MOST_CONTEXTS = 256
"""Of one agent name."""
_STALE_S = 24 * 3600.0
"""KV files that nothing names are what a crash has left, when they are so old."""

T = TypeVar("T")
Done = Callable[[T | AiosError], None]


class KvFiles(Protocol):
    """The model of a conversation: it writes the KV of tokens to files, and finds it there."""

    def save_context(self, tokens: array[int], path: str, done: Written) -> None:
        """Write what KV there is of these tokens."""

    def restore_context(self, tokens: array[int], path: str, stamp: int) -> None:
        """Note that a file holds the KV of these tokens."""


class _File(msgspec.Struct, frozen=True):
    version: int
    saved_unix: float
    messages: list[Message]
    tokens: bytes
    image: str
    stamp: int = 0


class SavedContexts:
    """The folder of saved contexts. Every ``done`` gets the result, or why there is none."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self._folder, self._worker = folder, worker

    def save(
        self,
        agent: str,
        model: KvFiles,
        tokens: array[int],
        name: str,
        messages: list[Message],
        done: Done[NamedContext],
    ) -> None:
        """Write a conversation, and what KV ``model`` has of ``tokens``."""
        folder = self._folder / agent
        image = folder / f"{name}-{secrets.token_hex(6)}.kv"

        def made(outcome: Outcome[None]) -> None:
            if outcome.error:
                _refuse(outcome.error, done)
            else:
                model.save_context(tokens, str(image), written)

        def written(count: int, stamp: int) -> None:
            kept = tokens[:count].tobytes()
            record = _File(1, time.time(), messages, kept, image.name if count else "", stamp)
            self._worker.submit(
                lambda: _replace(folder, name, record, image), lambda got: _hand_over(got, done)
            )

        self._worker.submit(lambda: _make_room(folder, name), made)

    def restore(self, agent: str, model: KvFiles, name: str, done: Done[ContextReply]) -> None:
        """The messages, and how many tokens of KV came with them. NotFound."""
        path = self._folder / agent / f"{name}.ctx"

        def read(outcome: Outcome[_File]) -> None:
            if outcome.error:
                _refuse(outcome.error, done)
                return
            record = outcome.result()
            tokens = array("i")
            tokens.frombytes(record.tokens)
            if tokens and record.image:
                model.restore_context(tokens, str(path.parent / record.image), record.stamp)
            done(ContextReply(record.messages, len(tokens)))

        self._worker.submit(lambda: _found(path), read)

    def list(self, agent: str, done: Done[list[NamedContext]]) -> None:
        """Those of the agent's name."""
        folder = self._folder / agent
        self._worker.submit(lambda: _rows(folder), lambda got: _hand_over(got, done))

    def remove(self, agent: str, name: str, done: Done[None]) -> None:
        """Delete it. NotFound."""
        path = self._folder / agent / f"{name}.ctx"
        self._worker.submit(lambda: _remove(path), lambda got: _hand_over(got, done))


def _hand_over(outcome: Outcome[T], done: Done[T]) -> None:
    if outcome.error:
        _refuse(outcome.error, done)
    else:
        done(outcome.result())


def _refuse(error: Exception, done: Callable[[AiosError], None]) -> None:
    """A typed error is the caller's, any other a bug."""
    if not isinstance(error, AiosError):
        raise error
    done(error)


# ------------------------------------------------------------------ in the worker's thread


def _make_room(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ResourceExhausted(
            f"cannot make {folder}: {error.strerror}", "make room there, or mend its rights"
        ) from None
    known = [path.stem for path in folder.glob("*.ctx")]
    if len(known) >= MOST_CONTEXTS and name not in known:
        raise ResourceExhausted(
            f"{folder.name} has {len(known)} saved contexts; the limit is {MOST_CONTEXTS}",
            "remove some: aios.context.remove(name)",
        )


def _replace(folder: Path, name: str, record: _File, image: Path) -> NamedContext:
    """Write it beside the old one, then in its place; nothing is left when that fails."""
    path, part = folder / f"{name}.ctx", folder / f"{name}.part"
    old = _read(path)
    try:
        with part.open("wb") as file:
            file.write(msgspec.msgpack.encode(record))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        _delete(part, image)
        raise ResourceExhausted(
            f"cannot save context {name}: {error.strerror}", f"make room in {folder.parent}"
        ) from None
    if not record.image:
        _delete(image)  # a core that died may have finished it
    if old and old.image:
        _delete(folder / old.image)
    _sweep(folder)
    return _row(path, record)


def _sweep(folder: Path) -> None:
    """Delete what kernels that crashed while saving have left."""
    before = time.time() - _STALE_S
    stale = []
    for path in (*folder.glob("*.kv"), *folder.glob("*.part")):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < before:
                stale.append(path)
    if stale:
        named = {record.image for path in folder.glob("*.ctx") if (record := _read(path))}
        _delete(*(path for path in stale if path.name not in named))


def _found(path: Path) -> _File:
    record = _read(path)
    if record is None:
        raise NotFound(
            f"{path.parent.name} has no saved context {path.stem!r}",
            "list them: aios.context.saved()",
        )
    return record


def _rows(folder: Path) -> list[NamedContext]:
    records = [(path, _read(path)) for path in sorted(folder.glob("*.ctx"))]
    return [_row(path, record) for path, record in records if record]


def _remove(path: Path) -> None:
    record = _found(path)
    _delete(path)
    if record.image:
        _delete(path.parent / record.image)


def _delete(*paths: Path) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _read(path: Path) -> _File | None:
    """None when there is none, or none that can be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        record = msgspec.msgpack.decode(path.read_bytes(), type=_File)
        ours = not record.image or (
            Path(record.image).name == record.image and record.image.endswith(".kv")
        )
        if record.version == 1 and len(record.tokens) % 4 == 0 and ours:
            return record
    return None


def _row(path: Path, record: _File) -> NamedContext:
    size = 0
    for part in (path, *([path.parent / record.image] if record.image else [])):
        with contextlib.suppress(OSError):
            size += part.stat().st_size
    return NamedContext(path.stem, record.saved_unix, len(record.tokens) // 4, size)
