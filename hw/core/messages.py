"""The messages between kernel and core; hw/machine/framing.py frames them.

Both ends are of one version and trust one another; shapes are still checked when decoded.
KV bytes never travel here: operations name a place in the arena.
"""

from __future__ import annotations

import socket
from typing import Literal

import msgspec

from aios.hw.engine.engine import EngineInfo, EngineSettings, Message
from aios.hw.engine.sampling import SamplingParams
from aios.hw.machine.framing import read_frame, take_frame

# -------------------------------------------------------------------------- kernel → core


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first message: load this model. Images go to ``arena_bytes`` of shared memory."""

    settings: EngineSettings
    arena_bytes: int


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """A new request: make its tokens and keep it until Drop or its end."""

    request: int
    params: SamplingParams
    streamed: bool
    messages: list[Message] | None = None
    prompt: str | None = None
    truncate: bool = False
    """When the conversation is too long, leave out its oldest turns."""


class Adopt(msgspec.Struct, frozen=True, tag=True):
    """A request that an earlier core was working on: int32 tokens, and how many are prompt."""

    request: int
    params: SamplingParams
    streamed: bool
    tokens: bytes
    prompt_tokens: int


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Forget a request. It stops at the next token; its seat's content is void."""

    request: int


class Op(msgspec.Struct, frozen=True):
    """One operation on a seat or an image, done before the steps of a slice.

    ``save``: seat → arena; ``size_bytes`` is the room there is. ``load``: arena, or the file at
    ``path`` → seat. ``copy``: seat ``source`` → seat. ``trim``: the seat. The last three leave the
    first ``tokens`` tokens in the seat. ``spill``: arena → file.
    ``stamp`` goes into the image that is saved, and is demanded of the one that is loaded.
    """

    kind: Literal["save", "load", "copy", "trim", "spill"]
    seat: int = 0
    offset: int = 0
    size_bytes: int = 0
    tokens: int = 0
    source: int = 0
    path: str = ""
    stamp: int = 0


class SliceRow(msgspec.Struct, frozen=True):
    """Request and the seat it runs in."""

    request: int
    seat: int


class Slice(msgspec.Struct, frozen=True, tag=True):
    """Do the operations in order, then up to ``steps`` steps of the rows as one batch.

    A step is one decode call: one token for each row that generates, and ``chunk_tokens`` of
    prompt, shared among the rows that still prefill (``lone_chunk_tokens`` when nobody streams).
    """

    slice: int
    ops: list[Op]
    rows: list[SliceRow]
    steps: int
    chunk_tokens: int
    lone_chunk_tokens: int


class Yield(msgspec.Struct, frozen=True, tag=True):
    """End this slice after the step under way."""

    slice: int


Command = Start | Prepare | Adopt | Drop | Slice | Yield

# -------------------------------------------------------------------------- core → kernel


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded."""

    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be loaded; the core ends after this."""

    reason: str


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """The request's prompt as int32 tokens; ``dropped`` turns were left out of it."""

    request: int
    tokens: bytes
    dropped: int = 0


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The request's input cannot be used; the core has forgotten it. Of a grammar that may show
    only when tokens have been drawn."""

    request: int
    reason: str


class StepRow(msgspec.Struct, frozen=True, array_like=True):
    """A row's outcome. ``token`` is -1 when the end of text was drawn; ``text`` may lag behind."""

    request: int
    token: int
    text: str
    finish: Literal["", "stop", "length"]


class Step(msgspec.Struct, frozen=True, tag=True):
    """Tokens drawn, in order; a request may have several rows.

    Tokens nobody reads yet are kept for a second, or until the slice ends, so that the kernel need
    not wake for each: what a dying core takes along is drawn again, the same. Without rows it is a
    sign of life.
    """

    slice: int
    rows: list[StepRow]


class OpResult(msgspec.Struct, frozen=True):
    """``size_bytes``: what was moved. Not ok: the image or file, or the seat, is empty."""

    ok: bool
    size_bytes: int = 0
    reason: str = ""
    seconds: float = 0.0


class Moved(msgspec.Struct, frozen=True, tag=True):
    """Some operations of the slice under way have failed. Told at once, since a request may end,
    and be told what it found computed, before the slice does."""

    slice: int
    ok: list[bool]


class SliceEnd(msgspec.Struct, frozen=True, tag=True):
    """The slice is over. ``lengths``: tokens in the seat of each row, in the slice's order;
    ``prefilled``: how many of them it computed in this slice, generated ones included."""

    slice: int
    steps: int
    ops: list[OpResult]
    lengths: list[int]
    prefilled: list[int]


Event = Hello | Failed | Prepared | Refused | Step | Moved | SliceEnd

_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def take_event(buffer: bytearray) -> Event | None:
    """Take the first whole event out of a buffer. Raises ValueError, msgspec.DecodeError."""
    payload = take_frame(buffer)
    return None if payload is None else _event_decoder.decode(payload)


def read_command(sock: socket.socket) -> Command | None:
    """Wait for the kernel's next command; None when the kernel is gone."""
    payload = read_frame(sock)
    return None if payload is None else _command_decoder.decode(payload)
