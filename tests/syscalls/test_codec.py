"""The codec: frames, bodies, and errors."""

from __future__ import annotations

import random

import msgpack
import pytest

from aios.syscalls import codec
from aios.syscalls.errors import BY_CODE, InvalidArgument, ResourceExhausted, from_body
from aios.syscalls.types.chat import ChatRequest
from aios.syscalls.types.common import Empty
from aios.syscalls.types.mail import SendRequest


def test_a_request_comes_back() -> None:
    body = ChatRequest(prompt="hé", stop=["x"], seed=3)
    request = codec.decode_call(codec.encode_call(10, 7, 2.5, body))
    assert request[:3] == (10, 7, 2.5)
    assert codec.convert(request.body, ChatRequest) == body


def test_random_bytes_and_mutants_never_raise_anything_else() -> None:
    """100,000 frames, seed 11."""
    rng = random.Random(11)
    good = codec.encode_call(10, 7, 2.5, ChatRequest(prompt="hello", stop=["a", "b"]))
    for round_ in range(100_000):
        frame = bytearray(good) if round_ % 2 else bytearray(rng.randbytes(rng.randint(0, 60)))
        for _ in range(rng.randint(1, 4)):
            if frame:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
        try:
            codec.convert(codec.decode_call(bytes(frame)).body, ChatRequest)
        except InvalidArgument:
            assert codec.peek_call_id(bytes(frame)) >= 0


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        msgpack.packb([1, 2, 3]),
        msgpack.packb([1, -1, 0, {}]),
        msgpack.packb([1, True, 0, {}]),
        msgpack.packb([1, 2, 1 << 60, {}]),
        msgpack.packb([1, 2, 3, []]),
        msgpack.packb({1: 2}),
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        msgpack.packb([1, 2, 0, {"a": b"\xff"}]) + b"more",
        msgpack.packb([1, 2, 0, msgpack.ExtType(4, b"x" * 9)]),
    ],
)
def test_malformed_frames_are_typed_errors(frame: bytes) -> None:
    with pytest.raises(InvalidArgument):
        codec.decode_call(frame)


def test_limits_name_field_limit_and_value() -> None:
    with pytest.raises(InvalidArgument, match=r"max_tokens.*>= 1.*got -5"):
        codec.convert({"prompt": "x", "max_tokens": -5}, ChatRequest)
    with pytest.raises(InvalidArgument, match="unknown field `temprature`"):
        codec.convert({"prompt": "x", "temprature": 1}, ChatRequest)
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidArgument):
        codec.encode_call(30, 1, None, SendRequest("1", deep))
    with pytest.raises(ResourceExhausted, match="exceeds the limit"):
        codec.encode_call(30, 1, None, SendRequest("1", b"x" * (9 << 20)))


def test_errors_cross_the_wire_as_their_types() -> None:
    for code, kind in BY_CODE.items():
        back = from_body(kind("words", "hint").body())
        assert type(back) is kind and back.code == code and back.hint == "hint"


def test_empty_bodies_take_no_fields() -> None:
    with pytest.raises(InvalidArgument):
        codec.convert({"x": 1}, Empty)
