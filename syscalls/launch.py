"""What kernel and zygote say to each other over their SOCK_SEQPACKET pair, one message a packet.

The kernel starts ``python -m aios.zygote FD RUNTIME_DIR`` with one end as descriptor FD.
"""

from __future__ import annotations

import msgspec

MAX_PACKET_BYTES = 160 * 1024
"""Largest message; bounds an agent's arguments and environment together."""


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Start an agent. ``user`` and ``secret`` are its credentials; ``env`` its whole environment.

    ``stdin`` None is the null device; outputs are files (appended to) or FIFOs with a reader.
    ``log`` is where output goes when a FIFO has lost its reader.
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
    """Send a signal to a process, and with ``tree`` to everything it started."""

    pid: int
    signal: int
    tree: bool


class Forked(msgspec.Struct, frozen=True, tag=True):
    """The agent runs as this host process."""

    pid: int
    os_pid: int


class ForkFailed(msgspec.Struct, frozen=True, tag=True):
    """The agent could not be started."""

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
    """One packet."""
    return _encoder.encode(message)


def decode_order(packet: bytes) -> Order:
    """What the kernel said. Raises msgspec.DecodeError."""
    return _orders.decode(packet)


def decode_report(packet: bytes) -> Report:
    """What the zygote said. Raises msgspec.DecodeError."""
    return _reports.decode(packet)
