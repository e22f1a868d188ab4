"""The image of a seat: a header that says whose state it is, then the state.

Promises that an image is loaded only into the model, build and KV types that wrote it, only
undamaged, and only when it is the very one that is meant: the kernel stamps each with a number of
its own, so a place that was used again in between is found out. A place may hold the remains of a
core that died while writing: the header is written last, so such remains are never taken for an
image. What is saved is checksummed by a second thread while the engine goes on; what is loaded is
checked before llama.cpp's reader sees any of it.
"""

from __future__ import annotations

import struct
from concurrent.futures import Future, ThreadPoolExecutor

import xxhash

from .engine import Engine, EngineInfo, ImageRejected, ImageTooLarge

_HEADER = struct.Struct("<8sQQQQQ")  # magic, identity, stamp, tokens, state bytes, checksum
_MAGIC = b"AIOSKV03"
HEADER_BYTES = 64


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
        _HEADER.pack_into(
            image, 0, _MAGIC, self._identity, stamp, tokens, len(state), _digest(state)
        )

    def _load(self, seat: int, image: memoryview, stamp: int) -> int:
        if len(image) < HEADER_BYTES:
            raise ImageRejected("the image is shorter than its header")
        magic, owner, mark, tokens, size, checksum = _HEADER.unpack_from(image)
        if magic != _MAGIC:
            raise ImageRejected("there is no image at this place")
        if owner != self._identity:
            raise ImageRejected("the image is of another model, build or KV type")
        if mark != stamp:
            raise ImageRejected("the place holds another image")
        state = image[HEADER_BYTES : HEADER_BYTES + size]
        if len(state) != size or _digest(state) != checksum:
            raise ImageRejected("the image is damaged")
        self._engine.load(seat, state, tokens)
        return int(tokens)


def image_bytes(info: EngineInfo, tokens: int) -> int:
    """Room that an image of so many tokens needs at most."""
    return HEADER_BYTES + info.image_fixed_bytes + tokens * info.image_token_bytes


def identity(info: EngineInfo) -> int:
    """A number for all that must agree between the writer of an image and its reader."""
    parts = (info.model_hash, info.build, info.rung.kv_type, str(info.image_token_bytes))
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode())


def _digest(data: memoryview) -> int:
    state = xxhash.xxh3_64()
    state.update(data)  # unlike the one-shot function, this releases the GIL
    return state.intdigest()
