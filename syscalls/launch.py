"""The messages between kernel and zygote: one a packet, over a SOCK_SEQPACKET pair.

The kernel starts ``PYTHON -m aios.boot.zygote FD RUNTIME_DIR`` with one end as descriptor FD.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

MAX_PACKET_BYTES = 160 * 1024
"""Largest message; bounds an agent's arguments and environment together."""


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Start an agent. ``user`` and ``secret`` are its credentials; ``env`` is all its environment.

    ``stdin`` None is the null device. Outputs are files, which are appended to, or FIFOs with a
    reader; output to a FIFO that has lost its reader goes to the file ``log``.
    """

    pid: int
    user: str
    secret: str
    name: str
    path: str
    args: list[str]
    cwd: str
    env: dict[str, str]
    stdin: str | None
    stdout: str
    stderr: str
    log: str


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Signal a process; with ``tree``, also everything that it started."""

    pid: int
    signal: int
    tree: bool


class Forked(msgspec.Struct, frozen=True, tag=True):
    """The agent runs, as this host process."""

    pid: int
    os_pid: int


class ForkFailed(msgspec.Struct, frozen=True, tag=True):
    """The agent cannot be started."""

    pid: int
    reason: str


class Exited(msgspec.Struct, frozen=True, tag=True):
    """The agent has ended, and so has all it started. ``exit_code``: 128+n for signal n."""

    pid: int
    exit_code: int


Order = Fork | Signal
Report = Forked | ForkFailed | Exited

_encoder = msgspec.msgpack.Encoder()
_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode(message: Order | Report) -> bytes:
    """Return a message as a packet."""
    return _encoder.encode(message)


def check_size(order: Order) -> None:
    """Raise ValueError if the order does not fit into a packet."""
    size = len(encode(order))
    if size > MAX_PACKET_BYTES:
        raise ValueError(
            f"arguments and environment take {size:,} bytes; the limit is {MAX_PACKET_BYTES:,}"
        )


def decode_order(packet: bytes) -> Order:
    """Return the kernel's message. Raises msgspec.DecodeError."""
    return _orders.decode(packet)


def decode_report(packet: bytes) -> Report:
    """Return the zygote's message. Raises msgspec.DecodeError."""
    return _reports.decode(packet)


def take_report(buffer: bytearray) -> Report | None:
    """Take the zygote's message from a buffer that holds one packet or none."""
    if not buffer:
        return None
    report = decode_report(bytes(buffer))
    buffer.clear()
    return report


def interpreter(path: str, version: Sequence[int]) -> str:
    """Return the one path by which an interpreter is known: bin/python3.12, not bin/python.

    Its folder tells its environment, so only the folder's links are resolved.
    """
    folder, name = os.path.split(path)
    folder = os.path.realpath(folder)
    full = os.path.join(folder, f"python{version[0]}.{version[1]}")
    same = os.path.realpath(full) == os.path.realpath(path)
    return full if same else os.path.join(folder, name)
