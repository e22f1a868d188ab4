"""The arena's accounts under random use, and images that must not be taken for good."""

from __future__ import annotations

import random

import pytest

from aios.hw.engine import image
from aios.hw.engine.engine import EngineSettings, ImageRejected, ImageTooLarge, Row
from aios.hw.engine.fake import FakeEngine
from aios.hw.machine.arena import PAGE_BYTES, Arena, Extent, SharedMemory


def test_random_use_keeps_the_accounts_right() -> None:
    arena, rng = Arena(1 << 20), random.Random(5)
    held: list[Extent] = []
    for _ in range(3000):
        if held and rng.random() < 0.5:
            arena.free(held.pop(rng.randrange(len(held))))
        else:
            extent = arena.allocate(rng.randint(1, 60_000))
            if extent:
                held.append(extent)
        assert arena.check() == []
    for extent in held:
        arena.free(extent)
    assert arena.check() == [] and arena.used_bytes == 0
    assert arena.allocate(1 << 20) is not None, "free neighbours were merged"
    arena.close()


def test_freeing_twice_is_a_bug_that_shows() -> None:
    arena = Arena(PAGE_BYTES * 4)
    extent = arena.allocate(1)
    assert extent
    arena.free(extent)
    with pytest.raises(KeyError):
        arena.free(extent)
    assert arena.allocate(PAGE_BYTES * 5) is None
    arena.close()


def test_two_mappings_see_one_memory_and_trim_empties_it() -> None:
    arena = Arena(PAGE_BYTES)
    other = SharedMemory(arena.fd, PAGE_BYTES)
    extent = arena.allocate(8)
    assert extent
    arena.at(extent.offset, 8)[:] = b"12345678"
    assert bytes(other.at(extent.offset, 8)) == b"12345678"
    with pytest.raises(ValueError, match="outside"):
        other.at(PAGE_BYTES - 4, 8)
    arena.free(extent)
    arena.trim()
    assert bytes(other.at(0, 8)) == bytes(8)
    arena.close()


def _filled() -> tuple[FakeEngine, bytearray]:
    engine = FakeEngine(EngineSettings(path="fake", seats=2))
    engine.decode([Row(0, 0, engine.tokenize_text("hello"), False)])
    room = bytearray(image.image_bytes(engine.info, engine.length(0)))
    images = image.Images(engine)
    size = images.save(0, memoryview(room))
    images.close()
    assert size <= len(room)
    return engine, room


def _load(engine: FakeEngine, seat: int, room: bytearray) -> int:
    images = image.Images(engine)
    try:
        return images.load(seat, memoryview(room))
    finally:
        images.close()


def test_an_image_goes_into_another_seat() -> None:
    engine, room = _filled()
    assert _load(engine, 1, room) == engine.length(0) == engine.length(1)


@pytest.mark.parametrize("at", [0, 10, 20, 30, 40, 50, 80, -1])
def test_a_damaged_image_is_rejected_and_leaves_the_seat_empty(at: int) -> None:
    engine, room = _filled()
    room[at] ^= 0xFF
    with pytest.raises(ImageRejected):
        _load(engine, 1, room)
    assert engine.length(1) == 0


def test_an_image_of_another_model_is_rejected() -> None:
    _, room = _filled()
    other = FakeEngine(EngineSettings(path="fake", seats=2))
    other._info = type(other._info)(
        **{f: getattr(other._info, f) for f in other._info.__struct_fields__ if f != "model_hash"},
        model_hash="other",
    )
    with pytest.raises(ImageRejected, match="another model"):
        _load(other, 0, room)


def test_no_room_is_told_with_the_need_and_leaves_no_image() -> None:
    engine, room = _filled()
    small = bytearray(len(room) - 64)
    small[:] = room[: len(small)]
    with pytest.raises(ImageTooLarge) as caught:
        image.Images(engine).save(0, memoryview(small))
    assert caught.value.needed_bytes <= len(room)
    with pytest.raises(ImageRejected, match="no image"):
        _load(engine, 1, small)
