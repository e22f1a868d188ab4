"""What kernel and embedder say to each other; framed as in messages.py.

Both ends are of one version and trust one another; shapes are still checked when decoded.
"""

from __future__ import annotations

import socket
from typing import Literal

import msgspec

from aios.hw.machine.framing import read_frame, take_frame

TextKind = Literal["passage", "query"]
"""What is looked for, and what looks for it: models are told which."""


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Make vectors of these texts, one after another."""

    batch: int
    kind: TextKind
    texts: list[str]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded; its vectors have so many float32 values."""

    model: str
    dimensions: int


class Unusable(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be loaded; the embedder ends after this."""

    reason: str


class Vectors(msgspec.Struct, frozen=True, tag=True):
    """A batch's vectors of length 1, in order: float32, native byte order."""

    batch: int
    vectors: list[bytes]


EmbedderEvent = Ready | Unusable | Vectors

_command: msgspec.msgpack.Decoder[Embed] = msgspec.msgpack.Decoder(Embed)
_event: msgspec.msgpack.Decoder[EmbedderEvent] = msgspec.msgpack.Decoder(EmbedderEvent)


def take_event(buffer: bytearray) -> EmbedderEvent | None:
    """Take the first whole event out of a buffer. Raises ValueError, msgspec.DecodeError."""
    payload = take_frame(buffer)
    return None if payload is None else _event.decode(payload)


def read_command(sock: socket.socket) -> Embed | None:
    """The next batch from the kernel, waiting for it; None when the kernel is gone."""
    payload = read_frame(sock)
    return None if payload is None else _command.decode(payload)
