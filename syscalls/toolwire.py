"""What kernel and toolhost say to each other, and toolhost and workers, framed on socket pairs.

The kernel starts ``python -m aios.toolhost FD PARENT`` with one end as descriptor FD. Every order
names its source in full, so a toolhost that is restarted needs to be told nothing.
"""

from __future__ import annotations

import socket
import struct
from typing import Literal

import msgspec

from .types.tool import ToolSpec

LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 16 << 20
MAX_OUTPUT_BYTES = 16 << 10
"""What is kept of a tool's prints."""

Kind = Literal["std", "file", "api", "mcp"]


class Source(msgspec.Struct, frozen=True):
    """Where tools come from. ``config``: JSON text, by kind; ``pin``: an MCP server's approved
    hash, '' to accept what it has."""

    name: str
    kind: Kind
    config: str = "{}"
    pin: str = ""


class DescribeSource(msgspec.Struct, frozen=True, tag=True):
    """Say what tools a source has now; its workers start anew."""

    job: int
    source: Source
    timeout_s: float = 30.0


class RunTool(msgspec.Struct, frozen=True, tag=True):
    """Run a tool; ends with one JobDone, by ``timeout_s``."""

    job: int
    source: Source
    tool: str
    arguments: str
    timeout_s: float


class StopJob(msgspec.Struct, frozen=True, tag=True):
    """End a job now; its JobDone still comes, when nothing of it runs any more."""

    job: int


class ForgetSource(msgspec.Struct, frozen=True, tag=True):
    """End the workers of a source."""

    name: str


class ReachRequest(msgspec.Struct, frozen=True, tag=True):
    """A job wants to reach a host: may its caller? It waits for one Reached."""

    job: int
    host: str


class ReachAnswer(msgspec.Struct, frozen=True, tag=True):
    """It may (``code`` ''), or the error that says why not."""

    job: int
    code: str = ""
    message: str = ""
    hint: str = ""


class SourceDescribed(msgspec.Struct, frozen=True, tag=True):
    """What a source has; ``error`` says why not. ``digest`` is over all of the tools."""

    job: int
    tools: list[ToolSpec]
    digest: str = ""
    skipped: list[str] = []
    error: str = ""


class JobDone(msgspec.Struct, frozen=True, tag=True):
    """A job is over. ``code`` '' means well; else an error's code, with ``message``.

    ``lost``: the worker or server died, so whether the tool did its work is not known.
    """

    job: int
    result: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""
    output: str = ""
    run_s: float = 0.0
    lost: bool = False


class SourceChanged(msgspec.Struct, frozen=True, tag=True):
    """An MCP server has other tools than those approved."""

    name: str
    tools: list[ToolSpec]
    digest: str


Order = DescribeSource | RunTool | StopJob | ForgetSource | ReachAnswer
Report = SourceDescribed | JobDone | SourceChanged | ReachRequest
Message = Order | Report

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message with its length before it."""
    payload = _encoder.encode(message)
    return LENGTH.pack(len(payload)) + payload


def decode(payload: bytes) -> Message:
    """What the other end said. Raises msgspec.DecodeError, msgspec.ValidationError."""
    return _decoder.decode(payload)


def take(buffer: bytearray) -> Message | None:
    """The first complete message of a buffer, taken out of it. Raises ValueError."""
    if len(buffer) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack_from(buffer)
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {size:,} bytes was announced")
    if len(buffer) - LENGTH.size < size:
        return None
    payload = bytes(buffer[LENGTH.size : LENGTH.size + size])
    del buffer[: LENGTH.size + size]
    return decode(payload)


def read(sock: socket.socket, buffer: bytearray) -> Message | None:
    """The next message from a blocking socket; None when the other end is gone."""
    while (message := take(buffer)) is None:
        part = sock.recv(1 << 18)
        if not part:
            return None
        buffer += part
    return message
