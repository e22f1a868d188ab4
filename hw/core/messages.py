"""The messages between kernel and core; hw/machine/framing.py frames them.

Both ends have the same version and trust each other; decoding still checks the shapes. KV bytes
are never sent: operations name a place in the arena.
"""

from __future__ import annotations

import socket
from typing import Literal

import msgspec

from aios.hw.chat.conversation import Call, Conversation
from aios.hw.chat.reply_format import ReplyFormat
from aios.hw.engine.engine import EngineInfo, EngineSettings
from aios.hw.engine.sampling import SamplingParams
from aios.hw.machine.framing import read_frame, take_frame

# -------------------------------------------------------------------------- kernel → core


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first message: load this model. The arena has ``arena_bytes``."""

    settings: EngineSettings
    arena_bytes: int


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """A new request: tokenise its prompt and keep it until Drop or its end."""

    request: int
    params: SamplingParams
    streamed: bool
    talk: Conversation | None = None
    prompt: str | None = None
    truncate: bool = False
    """If the conversation is too long, leave out its oldest turns."""
    account: int = 0
    """Drafts may come from earlier outputs of the same account."""


class Adopt(msgspec.Struct, frozen=True, tag=True):
    """A request from an earlier core: its int32 tokens, how many of them are prompt, and how to
    read its reply."""

    request: int
    params: SamplingParams
    streamed: bool
    tokens: bytes
    prompt_tokens: int
    format: ReplyFormat
    account: int = 0


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Forget a request; it stops before its next token. The content of its seat is void."""

    request: int


class Op(msgspec.Struct, frozen=True):
    """One operation on a seat or an image, carried out before the steps of a slice.

    ``save``: seat → arena, or the file at ``path``; ``size_bytes`` is the room for it. ``load``:
    arena or file → seat. ``copy``: seat ``source`` → seat. ``trim``: shorten the seat. The last
    three leave the first ``tokens`` tokens in the seat. ``spill``: arena → file. ``stamp`` is
    written into a saved image, and a loaded image must carry it.
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
    """A request and the seat it runs in."""

    request: int
    seat: int


class Slice(msgspec.Struct, frozen=True, tag=True):
    """Carry out the operations in order, then run up to ``steps`` steps of the rows.

    A step is one decode call: one token for each row that generates, and ``chunk_tokens`` of
    prompt for the rows that prefill together (``lone_chunk_tokens`` if no request streams).
    """

    slice: int
    ops: list[Op]
    rows: list[SliceRow]
    steps: int
    chunk_tokens: int
    lone_chunk_tokens: int


class Yield(msgspec.Struct, frozen=True, tag=True):
    """End this slice after the current step."""

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
    """The request's prompt as int32 tokens; ``dropped`` turns were left out. ``notes``: how the
    conversation was adapted to the model's template."""

    request: int
    tokens: bytes
    dropped: int = 0
    format: ReplyFormat = ReplyFormat()
    notes: list[str] = []


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The request's input cannot be used; the core has forgotten the request.

    An unusable grammar may be noticed only after tokens were drawn.
    """

    request: int
    reason: str
    tools: bool = False
    """The model's template has no tools."""


class StepRow(msgspec.Struct, frozen=True, array_like=True):
    """A drawn token; -1 is the end of text. ``text`` and ``reasoning`` may lag behind tokens.
    ``calls``: the tool calls of the whole reply, in its last row."""

    request: int
    token: int
    text: str
    finish: Literal["", "stop", "length", "tool_calls"]
    reasoning: str = ""
    calls: list[Call] = []
    drafted: bool = False
    """It took no step of its own: a draft was right, or the grammar left no choice."""


class Step(msgspec.Struct, frozen=True, tag=True):
    """The drawn tokens in order; a request may have several rows. Without rows, a sign of life.

    Tokens of requests that do not stream are held for a second or until the slice ends, so the
    kernel does not wake for each. If the core dies, the next one draws the same tokens again.
    """

    slice: int
    rows: list[StepRow]


class OpResult(msgspec.Struct, frozen=True):
    """The outcome of an operation; ``size_bytes`` were moved. Not ok: its target is empty."""

    ok: bool
    size_bytes: int = 0
    reason: str = ""
    seconds: float = 0.0


class Moved(msgspec.Struct, frozen=True, tag=True):
    """Operations of the current slice have failed.

    Sent at once: a request may end, and report its reused tokens, before the slice does.
    """

    slice: int
    ok: list[bool]


class SliceEnd(msgspec.Struct, frozen=True, tag=True):
    """The slice is over. ``lengths``: tokens in the seat of each row, in the slice's order.
    ``prefilled``: how many of them this slice computed, generated ones included."""

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
