"""The image of a seat: a header that says whose state it is, then the state.

Promises that an image is loaded only into the model, build and KV type that wrote it, and only
undamaged. A place in the arena may hold the remains of a core that died while writing: its header
is written last, so such remains are never taken for an image.
"""

from __future__ import annotations

import struct

import xxhash

from .engine import Engine, EngineInfo, ImageRejected, ImageTooLarge

_HEADER = struct.Struct("<8sQQQQ")  # magic, model identity, tokens, state bytes, checksum
_MAGIC = b"AIOSKV01"
HEADER_BYTES = 64


def image_bytes(info: EngineInfo, tokens: int) -> int:
    """Room that an image of so many tokens needs at most."""
    return HEADER_BYTES + info.image_fixed_bytes + tokens * info.image_token_bytes


def save(engine: Engine, seat: int, into: memoryview) -> int:
    """Write the seat's image; returns its bytes. Raises ImageTooLarge."""
    if len(into) < HEADER_BYTES:
        raise ImageTooLarge(image_bytes(engine.info, engine.length(seat)))
    into[:HEADER_BYTES] = bytes(HEADER_BYTES)
    try:
        size = engine.save(seat, into[HEADER_BYTES:])
    except ImageTooLarge as error:
        raise ImageTooLarge(error.needed_bytes + HEADER_BYTES) from None
    total = HEADER_BYTES + size
    checksum = xxhash.xxh3_64_intdigest(into[HEADER_BYTES:total])
    _HEADER.pack_into(into, 0, _MAGIC, identity(engine.info), engine.length(seat), size, checksum)
    return total


def load(engine: Engine, seat: int, image: memoryview) -> int:
    """Put an image into a seat; returns its tokens. Raises ImageRejected, the seat then empty."""
    try:
        if len(image) < HEADER_BYTES:
            raise ImageRejected("the image is shorter than its header")
        magic, owner, tokens, size, checksum = _HEADER.unpack_from(image)
        if magic != _MAGIC:
            raise ImageRejected("there is no image at this place")
        if owner != identity(engine.info):
            raise ImageRejected("the image is of another model, build or KV type")
        state = image[HEADER_BYTES : HEADER_BYTES + size]
        if len(state) != size or xxhash.xxh3_64_intdigest(state) != checksum:
            raise ImageRejected("the image is damaged")
        engine.load(seat, state, tokens)
    except ImageRejected:
        engine.trim(seat, 0)
        raise
    return int(tokens)


def identity(info: EngineInfo) -> int:
    """A number for all that must agree between the writer of an image and its reader."""
    parts = (info.model_hash, info.build, info.rung.kv_type, str(info.image_token_bytes))
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode())
