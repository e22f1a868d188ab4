"""The image of a seat: a header that identifies the state, then the state.

An image is loaded only if it is undamaged, was written with the same model, build and rung, and
carries the expected stamp. The kernel stamps each image with a unique number, so a place that was
reused in the meantime is rejected. The header is written last, so the remains of a core that died
while writing are not an image.

A second thread computes the checksums: while the engine continues after a save, and while llama.cpp
reads during a load (which also brings the data into the CPU's cache ahead of it). Only the start of
the state, with lengths and positions, is checked before llama.cpp reads it. The rest are values;
llama.cpp itself checks their number against the model.
"""

from __future__ import annotations

import struct
from concurrent.futures import Future, ThreadPoolExecutor

import xxhash

from .engine import Engine, EngineInfo, ImageRejected, ImageTooLarge

_HEADER = struct.Struct("<8sQQQQ")
"""Magic, identity, stamp, tokens, bytes of state."""
_SUMS = struct.Struct("<QQ")
"""Checksums of header and start of the state, and of the whole state."""
_MAGIC = b"AIOSKV04"
HEADER_BYTES = 64
_START_BYTES, _CELL_BYTES = 4096, 32
"""Size of the state's start: its own header, and for each token more than its position takes."""


class Images:
    """Saves and loads images of one engine's seats. ``close`` ends its thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._identity = identity(engine.info)
        self._thread = ThreadPoolExecutor(1, "checksums")
        self._sealing: Future[None] | None = None

    def save(self, seat: int, into: memoryview, stamp: int = 0) -> int:
        """Write the seat's image; return its size in bytes. It is complete after ``wait``.

        Raises ImageTooLarge, and ImageRejected if the model's state cannot be saved.
        """
        engine = self._engine
        tokens = engine.length(seat)
        if len(into) < HEADER_BYTES:
            raise ImageTooLarge(image_bytes(engine.info, tokens))
        self.wait()
        into[:HEADER_BYTES] = bytes(HEADER_BYTES)
        try:
            size = engine.save(seat, into[HEADER_BYTES:])
        except ImageTooLarge as error:
            raise ImageTooLarge(error.needed_bytes + HEADER_BYTES) from None
        self._sealing = self._thread.submit(self._seal, into[: HEADER_BYTES + size], tokens, stamp)
        return HEADER_BYTES + size

    def load(self, seat: int, image: memoryview, stamp: int = 0) -> int:
        """Load an image into a seat; return its tokens. On ImageRejected the seat is empty."""
        self.wait()
        try:
            return self._load(seat, image, stamp)
        except ImageRejected:
            self._engine.trim(seat, 0)
            raise

    def wait(self) -> None:
        """Wait until the last saved image has its header."""
        sealing, self._sealing = self._sealing, None
        if sealing:
            sealing.result()

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._thread.shutdown()

    def _seal(self, image: memoryview, tokens: int, stamp: int) -> None:
        state = image[HEADER_BYTES:]
        header = _HEADER.pack(_MAGIC, self._identity, stamp, tokens, len(state))
        start = _digest(header, _start(state, tokens))
        sums = _SUMS.pack(start, _digest(state))
        image[: len(header) + len(sums)] = header + sums

    def _load(self, seat: int, image: memoryview, stamp: int) -> int:
        if len(image) < HEADER_BYTES:
            raise ImageRejected("the image is shorter than its header")
        magic, owner, mark, tokens, size = _HEADER.unpack_from(image)
        start, checksum = _SUMS.unpack_from(image, _HEADER.size)
        if magic != _MAGIC:
            raise ImageRejected("there is no image at this place")
        if owner != self._identity:
            raise ImageRejected("the image belongs to another model, build or rung")
        if mark != stamp:
            raise ImageRejected("the place holds another image")
        state = image[HEADER_BYTES : HEADER_BYTES + size]
        header = image[: _HEADER.size]
        if len(state) != size or _digest(header, _start(state, tokens)) != start:
            raise ImageRejected("the image is damaged")
        found = self._thread.submit(_digest, state)
        try:
            self._engine.load(seat, state, tokens)
        finally:
            whole = found.result() == checksum
        if not whole:
            raise ImageRejected("the image is damaged")
        return int(tokens)


def image_bytes(info: EngineInfo, tokens: int) -> int:
    """Return the maximum size of an image of ``tokens`` tokens."""
    return HEADER_BYTES + info.image_fixed_bytes + tokens * info.image_token_bytes


def identity(info: EngineInfo) -> int:
    """Hash everything that must be equal for the writer and the reader of an image."""
    parts = (info.model_hash, info.build, repr(info.rung), str(info.image_token_bytes))
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode())


def _start(state: memoryview, tokens: int) -> memoryview:
    return state[: _START_BYTES + _CELL_BYTES * tokens]


def _digest(*parts: bytes | memoryview) -> int:
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)  # unlike the one-shot function, this releases the GIL
    return state.intdigest()
