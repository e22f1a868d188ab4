"""Images: checks that reject a damaged or foreign image."""

from __future__ import annotations

import pytest

from aios.hw.engine import image
from aios.hw.engine.engine import EngineSettings, ImageRejected, ImageTooLarge, Row
from aios.hw.engine.fake import FakeEngine


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


def test_an_image_can_be_loaded_into_another_seat() -> None:
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


def test_too_little_room_raises_with_the_size_needed_and_leaves_no_image() -> None:
    engine, room = _filled()
    small = bytearray(len(room) - 64)
    small[:] = room[: len(small)]
    with pytest.raises(ImageTooLarge) as caught:
        image.Images(engine).save(0, memoryview(small))
    assert caught.value.needed_bytes <= len(room)
    with pytest.raises(ImageRejected, match="no image"):
        _load(engine, 1, small)
