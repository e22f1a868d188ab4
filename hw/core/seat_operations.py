"""The operations on seats: save, load, copy and trim, and spilling images from the arena to files.

A slice's operations are carried out in order. One that fails leaves its seat empty or its place
without an image. It never ends the core, and the operations after it are still carried out. Image
files are not synced: an image that a power cut damages is recomputed.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path

from aios.hw.engine.engine import Engine, ImageRejected, ImageTooLarge
from aios.hw.engine.image import Images, image_bytes
from aios.hw.machine.arena import SharedMemory
from aios.hw.machine.durable import replace_file

from .messages import Op, OpResult


class SeatOperations:
    """Carries out the operations that come with slices."""

    def __init__(self, engine: Engine, memory: SharedMemory) -> None:
        self._engine, self._memory = engine, memory
        self._images = Images(engine)
        self._scratch = mmap.mmap(-1, mmap.PAGESIZE)

    def carry_out(self, op: Op) -> OpResult:
        """Carry out one operation; the result gives its outcome and duration."""
        start_s = time.perf_counter()
        try:
            size = self._do(op)
            return OpResult(True, size, seconds=time.perf_counter() - start_s)
        except ImageTooLarge as error:
            return OpResult(False, error.needed_bytes, str(error))
        except (ImageRejected, OSError) as error:
            return OpResult(False, 0, str(error))

    def wait(self) -> None:
        """Wait until all images are complete."""
        self._images.wait()

    def close(self) -> None:
        """End the thread of checksums. Idempotent."""
        self._images.close()

    def _do(self, op: Op) -> int:
        """Carry out the operation; return the bytes moved."""
        match op.kind:
            case "save":
                if op.path:
                    return self._save_to_file(op)
                place = self._memory.at(op.offset, op.size_bytes)
                return self._images.save(op.seat, place, op.stamp)
            case "load":
                return self._load(op)
            case "copy":
                return self._copy(op)
            case "trim":
                self._keep(op, self._engine.length(op.seat))
                return 0
            case "spill":
                return self._spill(op)

    def _load(self, op: Op) -> int:
        if not op.path:
            place = self._memory.at(op.offset, op.size_bytes)
            self._keep(op, self._images.load(op.seat, place, op.stamp))
            return op.size_bytes
        try:
            image = self._read(Path(op.path))
        except (OSError, ImageRejected):
            self._engine.trim(op.seat, 0)
            raise
        self._keep(op, self._images.load(op.seat, memoryview(image), op.stamp))
        return len(image)

    def _read(self, path: Path) -> bytes:
        info = self._engine.info
        if path.stat().st_size > image_bytes(info, info.context_tokens):
            raise ImageRejected(f"{path} is larger than any image of this model")
        return path.read_bytes()

    def _copy(self, op: Op) -> int:
        """Copy through scratch memory: llama.cpp's own copy moves whole buffers, not a prefix."""
        engine = self._engine
        room = image_bytes(engine.info, engine.length(op.source))
        try:
            with memoryview(self._room(room)) as scratch:
                size = engine.save(op.source, scratch)
                engine.load(op.seat, scratch[:size], engine.length(op.source))
        except (ImageRejected, ImageTooLarge):
            engine.trim(op.seat, 0)
            raise
        self._keep(op, engine.length(op.seat))
        return size

    def _keep(self, op: Op, length: int) -> None:
        """Trim the seat to the wanted tokens; empty it if the model cannot keep exactly these."""
        if length < op.tokens or self._engine.trim(op.seat, op.tokens) != op.tokens:
            self._engine.trim(op.seat, 0)
            raise ImageRejected(f"the seat holds {length} tokens, {op.tokens} are wanted")

    def _spill(self, op: Op) -> int:
        self._images.wait()
        place = self._memory.at(op.offset, op.size_bytes)
        replace_file(Path(op.path), place, durable=False)
        return op.size_bytes

    def _save_to_file(self, op: Op) -> int:
        with memoryview(self._room(op.size_bytes)) as scratch:
            size = self._images.save(op.seat, scratch, op.stamp)
            self._images.wait()
            with scratch[:size] as image:
                replace_file(Path(op.path), image, durable=False)
        return size

    def _room(self, size_bytes: int) -> mmap.mmap:
        if len(self._scratch) < size_bytes:
            self._scratch = mmap.mmap(-1, size_bytes)
        return self._scratch
