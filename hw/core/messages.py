"""What kernel and core say to each other, and how it is framed on their socket pair.

Both ends are of one version and trust one another; shapes are still checked when decoded.
KV bytes never travel here: operations name a place in the arena.
"""

from __future__ import annotations

import socket
import struct
from typing import Literal

import msgspec

from aios.hw.engine.engine import EngineInfo, EngineSettings, Message


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to draw tokens. ``top_k=0`` and ``temperature=0`` mean all tokens and greedy."""

    max_tokens: int
    seed: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    grammar: str | None = None
    max_context: int | None = None
    """Prompt and reply together; None: the context window."""


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


GRID_TOKENS = 64
"""Where chunks may not be mixed with generating rows, prompts are cut at multiples of this."""


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

# -------------------------------------------------------------------------- framing

LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 1 << 28

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def encode(message: msgspec.Struct) -> bytes:
    """A message with its length before it."""
    payload = _encoder.encode(message)
    return LENGTH.pack(len(payload)) + payload


def take_event(buffer: bytearray) -> Event | None:
    """Take the first whole event out of a buffer. Raises ValueError, msgspec.DecodeError."""
    payload = take_frame(buffer)
    return None if payload is None else _event_decoder.decode(payload)


def take_frame(buffer: bytearray) -> bytes | None:
    """Take the first whole message's payload out of a buffer. Raises ValueError."""
    if len(buffer) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack_from(buffer)
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {size:,} bytes exceeds the limit of {MAX_MESSAGE_BYTES:,}")
    if len(buffer) - LENGTH.size < size:
        return None
    payload = bytes(memoryview(buffer)[LENGTH.size : LENGTH.size + size])
    del buffer[: LENGTH.size + size]
    return payload


def read_command(sock: socket.socket) -> Command | None:
    """The next message from the kernel, waiting for it; None when the kernel is gone."""
    payload = read_frame(sock)
    return None if payload is None else _command_decoder.decode(payload)


def read_frame(sock: socket.socket) -> bytes | None:
    """The payload of the next message, waiting for it; None when the other end is gone."""
    head = sock.recv(LENGTH.size, socket.MSG_WAITALL)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    payload = bytearray()
    while len(payload) < size:
        part = sock.recv(size - len(payload), socket.MSG_WAITALL)
        if not part:
            return None
        payload += part
    return bytes(payload)
