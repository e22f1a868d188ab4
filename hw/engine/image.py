"""The image of a seat: a header that says whose state it is, then the state.

Promises that an image is loaded only into the model, build and KV types that wrote it, only
undamaged, and only when it is the very one that is meant: the kernel stamps each with a number of
its own, so a place that was used again in between is found out. A place may hold the remains of a
core that died while writing: the header is written last, so such remains are never taken for an
image. Checksums are taken by a second thread: of what is saved, while the engine goes on; of what
is loaded, while llama.cpp reads it, which also brings it into the cache ahead of the reader. Only
the state's beginning, where lengths and positions are, is checked before the reader sees it: the
rest are values, and what says how many is held against the model by the reader itself.
"""

from __future__ import annotations

import struct
from concurrent.futures import Future, ThreadPoolExecutor

import xxhash

from .engine import Engine, EngineInfo, ImageRejected, ImageTooLarge

_HEADER = struct.Struct("<8sQQQQ")
"""Magic, identity, stamp, tokens, bytes of state."""
_SUMS = struct.Struct("<QQ")
"""Checksums: of the header and the state's beginning, and of the whole state."""
_MAGIC = b"AIOSKV04"
HEADER_BYTES = 64
_BEGINNING_BYTES, _CELL_BYTES = 4096, 32
"""The state's beginning: its own header, and more for each token than a position takes."""


class Images:
    """Saves and loads images of one engine's seats; ``close`` ends its thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._identity = identity(engine.info)
        self._thread = ThreadPoolExecutor(1, "checksums")
        self._sealing: Future[None] | None = None

    def save(self, seat: int, into: memoryview, stamp: int = 0) -> int:
        """Write the seat's image; returns its bytes. Valid once ``wait`` has returned.

        Raises ImageTooLarge, and ImageRejected when the model's state cannot be saved.
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
        """Put an image into a seat; its tokens. Raises ImageRejected, the seat then empty."""
        self.wait()
        try:
            return self._load(seat, image, stamp)
        except ImageRejected:
            self._engine.trim(seat, 0)
            raise

    def wait(self) -> None:
        """Until the image that was saved last has its header."""
        sealing, self._sealing = self._sealing, None
        if sealing:
            sealing.result()

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._thread.shutdown()

    def _seal(self, image: memoryview, tokens: int, stamp: int) -> None:
        state = image[HEADER_BYTES:]
        header = _HEADER.pack(_MAGIC, self._identity, stamp, tokens, len(state))
        beginning = _digest(header, _beginning(state, tokens))
        sums = _SUMS.pack(beginning, _digest(state))
        image[: len(header) + len(sums)] = header + sums

    def _load(self, seat: int, image: memoryview, stamp: int) -> int:
        if len(image) < HEADER_BYTES:
            raise ImageRejected("the image is shorter than its header")
        magic, owner, mark, tokens, size = _HEADER.unpack_from(image)
        beginning, checksum = _SUMS.unpack_from(image, _HEADER.size)
        if magic != _MAGIC:
            raise ImageRejected("there is no image at this place")
        if owner != self._identity:
            raise ImageRejected("the image is of another model, build or KV type")
        if mark != stamp:
            raise ImageRejected("the place holds another image")
        state = image[HEADER_BYTES : HEADER_BYTES + size]
        header = image[: _HEADER.size]
        if len(state) != size or _digest(header, _beginning(state, tokens)) != beginning:
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
    """Room that an image of so many tokens needs at most."""
    return HEADER_BYTES + info.image_fixed_bytes + tokens * info.image_token_bytes


def identity(info: EngineInfo) -> int:
    """A number for all that must agree between the writer of an image and its reader."""
    parts = (info.model_hash, info.build, info.rung.kv_type, str(info.image_token_bytes))
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode())


def _beginning(state: memoryview, tokens: int) -> memoryview:
    return state[: _BEGINNING_BYTES + _CELL_BYTES * tokens]


def _digest(*parts: bytes | memoryview) -> int:
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)  # unlike the one-shot function, this releases the GIL
    return state.intdigest()
