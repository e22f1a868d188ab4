"""Messages between agents: one bounded mailbox per agent.

A message is delivered once; messages of one sender keep their order. A full mailbox rejects the
message with an error to the sender and drops nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from aios.kernel.loop.task import Promise
from aios.syscalls.errors import ResourceExhausted

MAX_MESSAGES = 1000
MAX_BYTES = 8 << 20
"""Limits of one mailbox."""


class Letter(NamedTuple):
    """A message in a mailbox; ``sender`` is a pid."""

    sender: int
    sender_name: str
    body: Any
    size_bytes: int


class Receiver(NamedTuple):
    """A waiting call; ``sender`` None accepts any sender."""

    sender: int | None
    letter: Promise[Letter]


class Mailbox:
    """Undelivered messages for one process, and its waiting receivers."""

    def __init__(self) -> None:
        self._letters: deque[Letter] = deque()
        self._receivers: list[Receiver] = []
        self._bytes = 0

    def put(self, letter: Letter) -> None:
        """Deliver to the first matching receiver, or queue. Raises ResourceExhausted."""
        for receiver in self._receivers:
            if receiver.sender in (None, letter.sender):
                self._receivers.remove(receiver)
                receiver.letter.resolve(letter)
                return
        if len(self._letters) >= MAX_MESSAGES or self._bytes + letter.size_bytes > MAX_BYTES:
            raise ResourceExhausted(
                f"the receiver's mailbox is full: {len(self._letters)} messages of "
                f"{self._bytes:,} bytes; the limits are {MAX_MESSAGES} and {MAX_BYTES:,}",
                "retry after the receiver has read some",
            )
        self._letters.append(letter)
        self._bytes += letter.size_bytes

    def take(self, receiver: Receiver) -> bool:
        """Deliver the oldest matching message and return True, or queue the receiver."""
        for index, letter in enumerate(self._letters):
            if receiver.sender in (None, letter.sender):
                del self._letters[index]
                self._bytes -= letter.size_bytes
                receiver.letter.resolve(letter)
                return True
        self._receivers.append(receiver)
        return False

    def leave(self, receiver: Receiver) -> None:
        """Remove a waiting receiver."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)
