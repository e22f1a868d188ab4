"""The messages between kernel and embedder; hw/machine/framing.py frames them.

Both ends have the same version and trust each other; decoding still checks the shapes.
"""

from __future__ import annotations

import socket
from typing import Literal

import msgspec

from aios.hw.machine.framing import read_frame, take_frame

TextKind = Literal["passage", "query"]
"""A text to be found, or one to search with; models embed them differently."""


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Embed these texts."""

    batch: int
    kind: TextKind
    texts: list[str]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded; its vectors have ``dimensions`` float32 values."""

    model: str
    dimensions: int


class Unusable(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be loaded; the embedder ends after this."""

    reason: str


class Vectors(msgspec.Struct, frozen=True, tag=True):
    """A batch's vectors in order, of length 1: float32 in native byte order. ``cut``: positions of
    texts that were not read to their end."""

    batch: int
    vectors: list[bytes]
    cut: list[int] = []


EmbedderEvent = Ready | Unusable | Vectors

_command: msgspec.msgpack.Decoder[Embed] = msgspec.msgpack.Decoder(Embed)
_event: msgspec.msgpack.Decoder[EmbedderEvent] = msgspec.msgpack.Decoder(EmbedderEvent)


def take_event(buffer: bytearray) -> EmbedderEvent | None:
    """Take the first whole event out of a buffer. Raises ValueError, msgspec.DecodeError."""
    payload = take_frame(buffer)
    return None if payload is None else _event.decode(payload)


def read_command(sock: socket.socket) -> Embed | None:
    """Wait for the kernel's next batch; None when the kernel is gone."""
    payload = read_frame(sock)
    return None if payload is None else _command.decode(payload)
