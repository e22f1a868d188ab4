"""Saved contexts: conversations under a name, with their KV, across agent runs and kernels.

    contexts/AGENT/NAME.ctx   messages, tokens and the name of the KV file (msgpack)
    contexts/AGENT/NAME-….kv  an image, as in the arena; each save gives it a new name

Agents of one name have the same contexts; the callers check whether others may have them. A KV file
that is missing, damaged or of another model costs a prefill and nothing else: the messages count.
Files are read and written by the worker; a context is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import secrets
from array import array
from pathlib import Path

import msgspec

from aios.hw.machine.durable import replace_file
from aios.kernel.loop.clock import Clock
from aios.kernel.loop.task import Promise
from aios.kernel.loop.worker import Worker
from aios.syscalls.errors import NotFound, ResourceExhausted
from aios.syscalls.types.chat import ContextReply, Message, NamedContext

from .saved_kv import SavedKv

MAX_CONTEXTS = 256
"""Limit on saved contexts per agent name."""
_STALE_S = 24 * 3600.0
"""Age from which a KV file that no context names is taken for the remains of a crash."""


class _File(msgspec.Struct, frozen=True):
    version: int
    saved_unix: float
    messages: list[Message]
    tokens: bytes
    image: str
    stamp: int = 0
    weights: str = ""
    """Weights and rung that the KV was computed with; '' if it was saved without."""


class SavedContexts:
    """The folder of saved contexts."""

    def __init__(self, folder: Path, worker: Worker, clock: Clock) -> None:
        self._folder, self._worker, self._clock = folder, worker, clock

    async def save(
        self, agent: str, kv: SavedKv, tokens: array[int], name: str, messages: list[Message]
    ) -> NamedContext:
        """Write a conversation, and the KV that ``kv`` has of ``tokens``.

        Raises ResourceExhausted.
        """
        folder = self._folder / agent
        image = folder / f"{name}-{secrets.token_hex(6)}.kv"
        await self._worker.run(lambda: _make_room(folder, name))
        count, stamp = await kv.save(tokens, str(image))
        kept, now = tokens[:count].tobytes(), self._clock.unix()
        weights = kv.weights if count else ""
        record = _File(1, now, messages, kept, image.name if count else "", stamp, weights)
        return await self._worker.run(lambda: _replace(folder, name, record, image))

    async def restore(self, agent: str, kv: SavedKv, name: str) -> ContextReply:
        """Return the messages, and how many tokens of KV came with them. Raises NotFound.

        KV of other weights than the model has now is left out, and the reply says so.
        """
        path = self._folder / agent / f"{name}.ctx"
        record = await self._worker.run(lambda: _found(path))
        tokens = array("i", record.tokens)
        if record.weights and kv.weights and record.weights != kv.weights:
            reason = f"saved with {record.weights}; the model now runs with {kv.weights}"
            return ContextReply(record.messages, 0, recomputed=reason)
        if tokens and record.image:
            kv.restore(tokens, str(path.parent / record.image), record.stamp)
        return ContextReply(record.messages, len(tokens))

    def list(self, agent: str) -> Promise[list[NamedContext]]:
        """Return the contexts of the agent's name."""
        folder = self._folder / agent
        return self._worker.run(lambda: _rows(folder))

    def remove(self, agent: str, name: str) -> Promise[None]:
        """Delete a context. Raises NotFound."""
        path = self._folder / agent / f"{name}.ctx"
        return self._worker.run(lambda: _remove(path))


# ------------------------------------------------------------------ in the worker's thread


def _make_room(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ResourceExhausted(
            f"cannot make {folder}: {error.strerror}", "make room there, or change its permissions"
        ) from None
    known = [path.stem for path in folder.glob("*.ctx")]
    if len(known) >= MAX_CONTEXTS and name not in known:
        raise ResourceExhausted(
            f"{folder.name} has {len(known)} saved contexts; the limit is {MAX_CONTEXTS}",
            "remove some: aios.context.remove(name)",
        )


def _replace(folder: Path, name: str, record: _File, image: Path) -> NamedContext:
    """Replace the context's file; delete the KV file when that fails."""
    path = folder / f"{name}.ctx"
    old = _read(path)
    try:
        replace_file(path, msgspec.msgpack.encode(record))
    except OSError as error:
        _delete(image)
        raise ResourceExhausted(
            f"cannot save context {name}: {error.strerror}", f"make room in {folder.parent}"
        ) from None
    if not record.image:
        _delete(image)  # a core that died may have finished it
    if old and old.image:
        _delete(folder / old.image)
    _sweep(folder, record.saved_unix)
    return _row(path, record)


def _sweep(folder: Path, now_unix: float) -> None:
    """Delete the remains of kernels that crashed while saving."""
    before = now_unix - _STALE_S
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
    """Return None when there is no file, or none that can be read."""
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
    count = len(record.tokens) // 4
    return NamedContext(path.stem, record.saved_unix, count, size, record.weights)
