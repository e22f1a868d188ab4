"""Request and reply types of ``ipc.*``: messages between agents."""

from __future__ import annotations

from typing import Any

import msgspec

from .common import Ref


class SendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send a message to another agent: any value that msgpack can encode, up to 1 MiB."""

    to: Ref
    body: Any


class RecvRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Wait for the next message; ``sender`` restricts it to one process."""

    sender: Ref | None = None


class MailReply(msgspec.Struct, frozen=True):
    """One message. The kernel sets ``sender``, so it cannot be forged."""

    sender: int
    sender_name: str
    body: Any
