"""The header of a GGUF file: metadata, and where the tensors lie.

Promises to end in bounded time and memory, with a header or a ModelFileError, whatever the file
holds: no count or length in it is believed before as many bytes have been read. Long arrays (the
vocabulary) are skipped; their lengths are kept. Never reads tensors, never maps the file.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .other_formats import what_it_is

MAX_HEADER_BYTES = 64 << 20
MAX_TENSORS, MAX_PAIRS, MAX_DIMENSIONS = 1 << 17, 1 << 16, 4
_MAX_DEPTH = 4
"""Arrays within arrays."""
_MAX_TEXT_BYTES = 4 << 20
_MAX_KEY_BYTES = 1 << 16
_KEPT_ITEMS = 4096
"""Numbers of an array up to which they are kept; layers have one each."""
_CHUNK = 1 << 20
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
            11: "<q", 12: "<d"}  # fmt: skip
"""GGUF's value types: the format of each in ``struct``."""
_SIZE = struct.Struct("<Q")

FORMATS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}  # fmt: skip
"""Tensor types of ggml: name, elements of a block, bytes of a block."""

Scalar = int | float | bool | str
Value = Scalar | list[Scalar]


class ModelFileError(Exception):
    """A file cannot be served; the text begins with its path, and gives the reason and the cure."""


class Tensor(NamedTuple):
    """Where a tensor lies, from the beginning of the data. ``kind`` is a key of FORMATS, or of a
    newer llama.cpp's."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size_bytes(self) -> int:
        """Its size; 0 for an unknown kind."""
        _, block, size = FORMATS.get(self.kind, ("", 1, 0))
        return -(-self.elements // block) * size

    @property
    def elements(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """One file's header. ``lengths``: of all arrays, also of those too long to be in ``values``."""

    path: Path
    file_bytes: int
    values: dict[str, Value]
    lengths: dict[str, int]
    tensors: list[Tensor]
    data_offset: int

    @property
    def architecture(self) -> str:
        """For example ``llama``; '' in the later parts of a split model."""
        return self.text("general.architecture")

    @property
    def needed_bytes(self) -> int:
        """The size that the file must have at least to hold its tensors."""
        ends = [tensor.offset + tensor.size_bytes for tensor in self.tensors]
        return self.data_offset + max(ends) if ends else 0

    def text(self, key: str) -> str:
        """Return a text, '' if there is none."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str, default: int = 0) -> int:
        """Return a whole number; ``default`` if there is none."""
        value = self.values.get(key)
        return value if isinstance(value, int) else default

    def numbers(self, key: str, count: int, default: int) -> list[int]:
        """Return a number for each of ``count`` layers, given as one for all or as an array."""
        value = self.values.get(key, default)
        if isinstance(value, list) and len(value) >= count:
            return [int(each) if isinstance(each, int | float) else default for each in value]
        return [value if isinstance(value, int) else default] * count


def read_header(path: Path) -> Header:
    """Read a file's header. Raises ModelFileError."""
    try:
        found = path.stat()  # follows links; opening a pipe would wait for its writer
        if stat.S_ISDIR(found.st_mode):
            raise ModelFileError(f"{path} is a folder; name a GGUF file in it")
        if not stat.S_ISREG(found.st_mode):
            raise ModelFileError(f"{path} is no regular file")
        with path.open("rb") as file:
            return _Reader(path, file, os.fstat(file.fileno()).st_size).header()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from None


class _Reader:
    """Reads forward through one file, a chunk at a time."""

    def __init__(self, path: Path, file: BinaryIO, file_bytes: int) -> None:
        self._path, self._file, self._file_bytes = path, file, file_bytes
        self._data = bytearray()
        self._at = 0
        self._values: dict[str, Value] = {}
        self._lengths: dict[str, int] = {}

    def header(self) -> Header:
        """Read it all."""
        tensors, pairs = self._counts()
        for _ in range(pairs):
            key = self._text("a key", _MAX_KEY_BYTES)
            value = self._value(self._number("<I"), key, 0)
            if value is not None:
                self._values[key] = value
        align = self._values.get("general.alignment", 32)
        if not isinstance(align, int) or not 0 < align <= 1 << 16 or align & (align - 1):
            raise self._damaged(f"general.alignment is {align}")
        found = [self._tensor() for _ in range(tensors)]
        data_offset = -(-self._at // align) * align
        return Header(self._path, self._file_bytes, self._values, self._lengths, found, data_offset)

    def _counts(self) -> tuple[int, int]:
        """Check the fixed beginning; return the numbers of tensors and of metadata pairs."""
        self._data += self._file.read(_CHUNK)
        other = what_it_is(bytes(self._data), self._file_bytes)
        if other:
            raise ModelFileError(f"{self._path} is no GGUF model: {other}")
        self._at = 4
        version = self._number("<I")
        if version & 0xFFFF == 0:
            raise ModelFileError(
                f"{self._path} is a big-endian GGUF file, for machines such as s390x; this one "
                "needs the little-endian file. Download that, or convert this one: "
                "gguf-convert-endian FILE little (of the Python package gguf)"
            )
        if version == 1:
            raise ModelFileError(
                f"{self._path} has GGUF version 1, of 2023, which llama.cpp no longer reads; "
                "download a newer file of the model"
            )
        if version > 3:
            raise ModelFileError(
                f"{self._path} has GGUF version {version}; this release of AIOS reads 2 and 3"
            )
        tensors, pairs = self._number("<Q"), self._number("<Q")
        if tensors > MAX_TENSORS or not 0 < pairs <= MAX_PAIRS:
            raise self._damaged(f"it claims {tensors} tensors and {pairs} metadata keys")
        return tensors, pairs

    def _value(self, kind: int, key: str, depth: int) -> Value | None:
        """Read a value; None for an array that is too long to be kept."""
        if kind == _STRING:
            return self._text(key, _MAX_TEXT_BYTES)
        if kind == _ARRAY:
            return self._array(key, depth)
        if kind not in _SCALARS:
            raise self._damaged(f"{key!r} has the unknown type {kind}")
        return self._number(_SCALARS[kind])

    def _array(self, key: str, depth: int) -> Value | None:
        kind, count = self._number("<I"), self._number("<Q")
        self._lengths[key] = count
        if kind == _STRING:
            self._skip_texts(count, key)
            return None
        if kind == _ARRAY:
            if depth == _MAX_DEPTH:
                raise self._damaged(f"{key!r} has arrays in arrays in arrays")
            self._need(count * 12, key)
            for _ in range(count):
                self._array(key, depth + 1)
            return None
        if kind not in _SCALARS:
            raise self._damaged(f"{key!r} is an array of the unknown type {kind}")
        each = struct.Struct(_SCALARS[kind])
        start = self._take(count * each.size, key)
        if count > _KEPT_ITEMS:
            return None
        part = memoryview(self._data)[start : self._at]
        return [value for (value,) in each.iter_unpack(part)]

    def _skip_texts(self, count: int, key: str) -> None:
        self._need(count * _SIZE.size, key)
        unpack, data = _SIZE.unpack_from, self._data
        at, have = self._at, len(self._data) - _SIZE.size
        for _ in range(count):
            if at > have:
                self._at = at
                self._need(_SIZE.size, key)
                have = len(data) - _SIZE.size
            at += unpack(data, at)[0] + _SIZE.size
        self._at = at
        self._need(0, key)

    def _tensor(self) -> Tensor:
        name = self._text("a tensor's name", _MAX_KEY_BYTES)
        count = self._number("<I")
        if count > MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name!r} has {count} dimensions")
        shape = tuple(self._number("<Q") for _ in range(count))
        kind, offset = self._number("<I"), self._number("<Q")
        if any(side >= 1 << 40 for side in shape) or offset >= 1 << 50:
            raise self._damaged(f"tensor {name!r} has the shape {shape} at {offset}")
        return Tensor(name, shape, kind, offset)

    def _text(self, what: str, limit: int) -> str:
        size = self._number("<Q")
        if size > limit:
            self._need(min(size, self._file_bytes), what)
            raise self._damaged(f"{what} has {size:,} bytes; the limit is {limit:,}")
        start = self._take(size, what)
        return self._data[start : self._at].decode("utf-8", "replace")

    def _number(self, form: str) -> int:
        each = struct.Struct(form)
        start = self._take(each.size, "a number")
        value: int = each.unpack_from(self._data, start)[0]
        return value

    def _take(self, size: int, what: str) -> int:
        """Move past some bytes; return where they begin."""
        self._need(size, what)
        start, self._at = self._at, self._at + size
        return start

    def _need(self, size: int, what: str) -> None:
        """Have some more bytes of the file in memory."""
        end = self._at + size
        if end > self._file_bytes:
            raise ModelFileError(
                f"{self._path} is cut short: it ends within its header, after "
                f"{self._file_bytes:,} bytes (at {plain(what)}); download it again"
            )
        if end > MAX_HEADER_BYTES:
            raise self._damaged(f"its header exceeds {MAX_HEADER_BYTES >> 20} MiB")
        while len(self._data) < end:
            chunk = self._file.read(max(_CHUNK, end - len(self._data)))
            if not chunk:
                raise ModelFileError(f"{self._path} became shorter while it was read")
            self._data += chunk

    def _damaged(self, how: str) -> ModelFileError:
        return ModelFileError(f"{self._path} is damaged: {plain(how)}; download it again")


def plain(text: str) -> str:
    """Return a text from a file for a message: short, without control characters."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 200 else f"{text[:200]}…"
