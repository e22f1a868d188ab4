"""Headers made to harm: every one ends at once with an error, or is read."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from aios.hw.models import model_files
from tests.hw.models.gguf_maker import write

STRING, ARRAY, U32 = 8, 9, 4
HUGE = (1 << 60, (1 << 64) - 1, 1 << 33)


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _file(*pairs: bytes, tensors: int = 0, rest: bytes = b"", count: int | None = None) -> bytes:
    head = struct.pack("<4sIQQ", b"GGUF", 3, tensors, len(pairs) if count is None else count)
    return head + b"".join(pairs) + rest + b"\0" * 64


def _pair(key: bytes, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _hostile() -> list[bytes]:
    made = []
    for huge in HUGE:
        size = struct.pack("<Q", huge)
        made += [
            _file(size),
            _file(_pair(b"k", STRING, size)),
            _file(_pair(b"k", ARRAY, struct.pack("<I", STRING) + size)),
            _file(_pair(b"k", ARRAY, struct.pack("<I", U32) + size)),
            _file(_pair(b"k", ARRAY, struct.pack("<I", ARRAY) + size)),
            _file(_pair(b"k", ARRAY, struct.pack("<IQ", STRING, 3) + size)),
            _file(tensors=1, count=1, rest=_pair(b"k", U32, b"\0" * 4) + size),
        ]
    nested = b"".join(struct.pack("<IQ", ARRAY, 1) for _ in range(5000))
    deep = _pair(b"k", ARRAY, nested)
    odd_tensor = _text(b"t") + struct.pack("<I4QIQ", 4, *[(1 << 64) - 1] * 4, 2, (1 << 64) - 1)
    made += [
        _file(deep),
        _file(_pair(b"k", 77, b"")),
        _file(_pair(b"k", ARRAY, struct.pack("<IQ", 77, 1))),
        _file(_pair(b"general.alignment", U32, b"\0" * 4)),
        _file(_pair(b"general.alignment", STRING, _text(b"many"))),
        _file(_pair(b"k\x1b[31m", U32, b"\1\0\0\0"), tensors=1, rest=odd_tensor),
        _file(_pair(b"k", U32, b"\1\0\0\0"), tensors=1, rest=_text(b"t") + b"\xff" * 4),
        _file(_pair(b"split.count", U32, struct.pack("<I", 1 << 31))),
    ]
    return made


@pytest.mark.parametrize("content", _hostile())
def test_a_hostile_header_is_an_error_in_little_memory(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    problem = model_files.problem(path) or ""
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(path) in problem and "\x1b" not in problem and len(problem) < 1000
    assert peak < 4 << 20


def test_a_header_without_an_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(_file(_pair(b"k", ARRAY, struct.pack("<IQ", STRING, 1 << 30)))[:-64])
        file.truncate(1 << 34)  # sparse: 2 Gi empty strings
    assert "exceeds 64 MiB" in (model_files.problem(path) or "")


@pytest.mark.parametrize("seed", range(20))
def test_mutants_of_a_real_header_end_with_a_text_or_none(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    whole = bytearray(write(tmp_path / "whole.gguf", tensors=4).read_bytes())
    path = tmp_path / "m.gguf"
    for _ in range(40):
        mutant = bytearray(whole)
        for _ in range(draw.choice((1, 1, 3, 8))):
            at = draw.randrange(min(len(mutant), draw.choice((64, 600, len(whole)))))
            mutant[at : at + draw.choice((1, 1, 4, 8))] = draw.randbytes(draw.choice((1, 1, 4, 8)))
        path.write_bytes(mutant[: draw.randrange(len(mutant))] if draw.random() < 0.2 else mutant)
        problem = model_files.problem(path)
        assert problem is None or (str(path) in problem and len(problem) < 1500)
