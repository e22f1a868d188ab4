"""The messages between the kernel and the program that works in a model's idle time."""

from __future__ import annotations

from typing import Literal

import msgspec

from aios.hw.engine.engine import EngineSettings, Rung
from aios.hw.machine.framing import take_frame

Kind = Literal["settings", "tune"]
"""``settings``: find the fastest settings for the file as it is loaded now. ``tune``: search for a
faster weight format, too."""


class Order(msgspec.Struct, frozen=True, tag=True):
    """Kernel → program: the work. ``settings`` are those of the model's core; ``rung`` and
    ``model_hash`` what it runs with now."""

    kind: Kind
    settings: EngineSettings
    rung: Rung
    model_hash: str
    estimated: bool = False
    """The core's thread count and step times are estimates."""
    quick: bool = True
    """Tune with the quick search."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Program → kernel: what it does now; ``percent`` of all that it expects to do."""

    text: str
    percent: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """Program → kernel: the work is done. ``better``: a core loaded now would be faster. ``again``:
    something could not be measured now, so try again later."""

    better: bool
    text: str
    again: bool = False


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Program → kernel: the work cannot be done; the reason, and what helps."""

    reason: str


IdleEvent = Progress | Done | Failed

_decoder: msgspec.msgpack.Decoder[IdleEvent] = msgspec.msgpack.Decoder(IdleEvent)


def take_event(buffer: bytearray) -> IdleEvent | None:
    """Take the first whole event out of a buffer. Raises ValueError, msgspec.DecodeError."""
    payload = take_frame(buffer)
    return None if payload is None else _decoder.decode(payload)
