"""Bytes ↔ messages, without sockets.

A call is the msgpack array ``[number, call_id, timeout_ms, body]``, with a fifth element if it is
made on behalf of another agent: the number of the work it serves. A reply is ``[call_id, kind,
body]``; ``kind`` is RESULT, ERROR or CHUNK. Bodies are maps. Every length is limited, and any error
of a decoder is raised as InvalidArgument with the reason.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import msgpack
import msgspec

from .errors import ErrorBody, InvalidArgument, ResourceExhausted
from .types.common import MAX_TIMEOUT_S, NAME_PATTERN
from .types.memory import NOTE_ID_PATTERN, SCOPE_PATTERN
from .types.tool import SOURCE_PATTERN, TOOL_PATTERN

MAX_FRAME_BYTES = 8 << 20
"""Limit on one frame. The kernel's socket disconnects a peer that sends a larger one."""
MAX_DEPTH_HINT = "send what msgpack can carry, nested less than 100 levels deep"

RESULT, ERROR, CHUNK = 0, 1, 2

_REGEX = "`str` matching regex "
_SHAPES = {
    repr(NAME_PATTERN): "letters, digits, _ . and -, the first a letter or digit",
    repr(TOOL_PATTERN): "letters, digits, _ . and -, the first a letter, digit or _",
    repr(SOURCE_PATTERN): "letters, digits, _ and -, the first a letter, digit or _",
    repr(SCOPE_PATTERN): "session, session:PID, agent, agent:NAME or shared:NAME",
    repr(NOTE_ID_PATTERN): "a note's id, like n12 or s3",
}
"""Regular expressions of msgspec's messages, in words."""

S = TypeVar("S", bound=msgspec.Struct)

_MALFORMED = (ValueError, TypeError, OverflowError, RecursionError, MemoryError)


class CallFrame(NamedTuple):
    """A decoded call: its shape is checked, its body is not."""

    number: int
    call_id: int
    timeout_s: float | None
    body: dict[str, Any]
    work: int
    """Number of the ``ToolWork`` that the call is made for, on behalf of its caller; or 0."""


class ReplyFrame(NamedTuple):
    """A decoded reply: its shape is checked, its body is not."""

    call_id: int
    kind: int
    body: dict[str, Any]


def encode_call(
    number: int, call_id: int, timeout_s: float | None, body: msgspec.Struct, work: int = 0
) -> bytes:
    """Return a call frame. Raises InvalidArgument if the body cannot be encoded or the timeout is
    not a number or too long."""
    if timeout_s is not None and not timeout_s <= MAX_TIMEOUT_S:
        raise InvalidArgument(f"timeout is {timeout_s}; expected 0 to {MAX_TIMEOUT_S:g} seconds")
    timeout_ms = 0 if timeout_s is None else max(1, int(timeout_s * 1000))
    message = [number, call_id, timeout_ms, _plain(body)]
    return _pack([*message, work] if work else message)


def encode_reply(call_id: int, kind: int, body: msgspec.Struct) -> bytes:
    """Return a reply frame."""
    return _pack([call_id, kind, _plain(body)])


def decode_call(frame: bytes) -> CallFrame:
    """Return the call in a frame. Raises InvalidArgument and nothing else."""
    number, call_id, timeout_ms, body, *more = _unpack(frame, 4, 5)
    work = more[0] if more else 0
    for label, value, most in (
        ("number", number, 1 << 31),
        ("call_id", call_id, 1 << 63),
        ("timeout_ms", timeout_ms, int(MAX_TIMEOUT_S * 1000)),
        ("work", work, 1 << 63),
    ):
        if type(value) is not int or not 0 <= value <= most:
            raise InvalidArgument(f"{label} is {_shown(value)}; expected 0 to {most}")
    if type(body) is not dict:
        raise InvalidArgument(f"body is {_shown(body)}; expected a map")
    return CallFrame(number, call_id, timeout_ms / 1000 if timeout_ms else None, body, work)


def peek_call_id(frame: bytes) -> int:
    """Return the call id of a frame that cannot be decoded; 0 if it cannot be read."""
    try:
        unpacker = msgpack.Unpacker(max_buffer_size=64, strict_map_key=True)
        unpacker.feed(frame[:64])
        unpacker.read_array_header()
        unpacker.skip()
        call_id = unpacker.unpack()
    except (*_MALFORMED, msgpack.exceptions.UnpackException):
        return 0
    return call_id if type(call_id) is int and 0 <= call_id <= 1 << 63 else 0


def decode_reply(frame: bytes) -> ReplyFrame:
    """Return the reply in a frame. Raises InvalidArgument."""
    call_id, kind, body = _unpack(frame, 3, 3)
    if type(call_id) is not int or kind not in (RESULT, ERROR, CHUNK) or type(body) is not dict:
        raise InvalidArgument("a reply does not have the shape [call_id, kind, body]")
    return ReplyFrame(call_id, kind, body)


def convert(body: dict[str, Any], into: type[S]) -> S:
    """Return the body as its type. Raises InvalidArgument naming the field, limit and value."""
    try:
        return msgspec.convert(body, into)
    except msgspec.ValidationError as error:
        raise InvalidArgument(_explain(str(error), body)) from None
    except RecursionError:
        raise InvalidArgument("the request is nested too deeply", MAX_DEPTH_HINT) from None


def convert_error(body: dict[str, Any]) -> ErrorBody:
    """Return an error body. Never raises."""
    try:
        return msgspec.convert(body, ErrorBody)
    except msgspec.ValidationError:
        return ErrorBody("ERROR", f"an error without a readable body: {_shown(body)}")


def _plain(body: msgspec.Struct) -> Any:
    try:
        return msgspec.to_builtins(body, builtin_types=(bytes,))
    except (*_MALFORMED, msgspec.MsgspecError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidArgument(f"this value cannot be sent: {reason}", MAX_DEPTH_HINT) from None


def _pack(message: list[Any]) -> bytes:
    try:
        frame: bytes = msgpack.packb(message)
    except _MALFORMED as error:
        raise InvalidArgument(f"this value cannot be sent: {error}") from None
    if len(frame) > MAX_FRAME_BYTES:
        raise ResourceExhausted(
            f"a message of {len(frame):,} bytes exceeds the limit of {MAX_FRAME_BYTES:,}",
            "send less at once, or pass a file's path instead of its content",
        )
    return frame


def _unpack(frame: bytes, least: int, most: int) -> list[Any]:
    if len(frame) > MAX_FRAME_BYTES:
        raise InvalidArgument(
            f"a frame of {len(frame):,} bytes exceeds the limit of {MAX_FRAME_BYTES:,}"
        )
    try:
        message = msgpack.unpackb(
            frame,
            strict_map_key=True,
            max_str_len=MAX_FRAME_BYTES,
            max_bin_len=MAX_FRAME_BYTES,
            max_array_len=1 << 18,
            max_map_len=1 << 16,
            max_ext_len=0,
        )
    except (*_MALFORMED, msgpack.exceptions.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise InvalidArgument(f"malformed frame of {len(frame):,} bytes: {reason}") from None
    if type(message) is not list or not least <= len(message) <= most:
        raise InvalidArgument(f"a frame is {_shown(message)}; expected an array of {least}")
    return message


def _explain(reason: str, body: dict[str, Any]) -> str:
    """Return msgspec's message with the offending value added."""
    text, _, path = reason.partition(" - at `$")
    before, regex, pattern = text.partition(_REGEX)
    if regex:
        text = before + _SHAPES.get(pattern, regex + pattern)
    path = path.rstrip("`").lstrip(".")
    field = path.split(".")[0].split("[")[0]
    if field and field in body:
        return f"{path}: {text}; got {_shown(body[field])}"
    return f"{path}: {text}" if path else text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
