"""The framing of messages on the socket pairs between the kernel and its own processes.

A frame is the payload's length (uint32, little-endian), then the payload: one msgpack message.
"""

from __future__ import annotations

import socket
import struct

import msgspec

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 28

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Return the message as a frame."""
    payload = _encoder.encode(message)
    return _LENGTH.pack(len(payload)) + payload


def take_frame(buffer: bytearray) -> bytes | None:
    """Take the first whole frame out of a buffer and return its payload; None if there is none.

    Raises ValueError for a frame over MAX_FRAME_BYTES.
    """
    if len(buffer) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack_from(buffer)
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {size:,} bytes exceeds the limit of {MAX_FRAME_BYTES:,}")
    if len(buffer) - _LENGTH.size < size:
        return None
    payload = bytes(memoryview(buffer)[_LENGTH.size : _LENGTH.size + size])
    del buffer[: _LENGTH.size + size]
    return payload


def read_frame(sock: socket.socket) -> bytes | None:
    """Wait for the next frame and return its payload; None when the other end is gone."""
    head = sock.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    payload = bytearray()
    while len(payload) < size:
        part = sock.recv(size - len(payload), socket.MSG_WAITALL)
        if not part:
            return None
        payload += part
    return bytes(payload)
