"""Messages between kernel and toolhost, and between toolhost and workers, on socket pairs.

The kernel starts ``python -m aios.toolhost FD`` with one end as descriptor FD. Each order names its
source in full, so a restarted toolhost needs no state.
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
"""Limit on the kept output of one tool call."""

Kind = Literal["std", "file", "api", "mcp"]


class Source(msgspec.Struct, frozen=True):
    """A source of tools. ``config``: JSON text, its fields depend on ``kind``. ``pin``: hash of an
    MCP server's approved tools, empty to accept any."""

    name: str
    kind: Kind
    config: str = "{}"
    pin: str = ""


class DescribeSource(msgspec.Struct, frozen=True, tag=True):
    """List the tools that a source has now. Restarts its workers."""

    job: int
    source: Source
    timeout_s: float = 30.0


class RunTool(msgspec.Struct, frozen=True, tag=True):
    """Run a tool. Answered by one JobDone, at the latest after ``timeout_s``."""

    job: int
    source: Source
    tool: str
    arguments: str
    timeout_s: float


class StopJob(msgspec.Struct, frozen=True, tag=True):
    """End a job now. Its JobDone follows when nothing of it runs any more."""

    job: int


class ForgetSource(msgspec.Struct, frozen=True, tag=True):
    """End the workers of a source."""

    name: str


class ReachRequest(msgspec.Struct, frozen=True, tag=True):
    """Ask whether the caller of a job may reach a host. Answered by one ReachAnswer."""

    job: int
    host: str


class ReachAnswer(msgspec.Struct, frozen=True, tag=True):
    """Permission to reach the host (``code`` empty), or the error that denies it."""

    job: int
    code: str = ""
    message: str = ""
    hint: str = ""


class SourceDescribed(msgspec.Struct, frozen=True, tag=True):
    """The tools of a source, or the ``error`` that prevents them. ``digest``: hash of all tools."""

    job: int
    tools: list[ToolSpec]
    digest: str = ""
    skipped: list[str] = []
    error: str = ""


class JobDone(msgspec.Struct, frozen=True, tag=True):
    """The end of a job. ``code``: empty for success, else the code of an error with ``message``.

    ``lost``: the worker or server died, so it is unknown whether the tool did its work.
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
    """An MCP server's tools differ from those approved."""

    name: str
    tools: list[ToolSpec]
    digest: str


Order = DescribeSource | RunTool | StopJob | ForgetSource | ReachAnswer
Report = SourceDescribed | JobDone | SourceChanged | ReachRequest
Message = Order | Report

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return a message preceded by its length."""
    payload = _encoder.encode(message)
    return LENGTH.pack(len(payload)) + payload


def decode(payload: bytes) -> Message:
    """Return the message in a payload. Raises msgspec.DecodeError, msgspec.ValidationError."""
    return _decoder.decode(payload)


def take(buffer: bytearray) -> Message | None:
    """Remove the first complete message from a buffer and return it, or None. Raises ValueError."""
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
    """Return the next message from a blocking socket; None at the end of the stream."""
    while (message := take(buffer)) is None:
        part = sock.recv(1 << 18)
        if not part:
            return None
        buffer += part
    return message
