"""Messages between agents: one bounded mailbox for each.

A message is delivered once, in the order of sending per sender. A full mailbox refuses the sender;
nothing is dropped silently.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from aios.kernel.loop.task import Promise
from aios.syscalls.errors import ResourceExhausted

MOST_MESSAGES = 1000
MOST_BYTES = 8 << 20


class Letter(NamedTuple):
    """A message in a mailbox; ``sender`` is a pid."""

    sender: int
    sender_name: str
    body: Any
    size_bytes: int


class Receiver(NamedTuple):
    """A waiting call; ``sender`` None takes a message from anybody."""

    sender: int | None
    letter: Promise[Letter]


class Mailbox:
    """The messages for one process that it has not received yet, and its waiting receivers."""

    def __init__(self) -> None:
        self._letters: deque[Letter] = deque()
        self._receivers: list[Receiver] = []
        self._bytes = 0

    def put(self, letter: Letter) -> None:
        """Deliver to the first receiver that wants it, or keep it. Raises ResourceExhausted."""
        for receiver in self._receivers:
            if receiver.sender in (None, letter.sender):
                self._receivers.remove(receiver)
                receiver.letter.resolve(letter)
                return
        if len(self._letters) >= MOST_MESSAGES or self._bytes + letter.size_bytes > MOST_BYTES:
            raise ResourceExhausted(
                f"the receiver's mailbox is full: {len(self._letters)} messages of "
                f"{self._bytes:,} bytes; the limits are {MOST_MESSAGES} and {MOST_BYTES:,}",
                "send again when it has received some",
            )
        self._letters.append(letter)
        self._bytes += letter.size_bytes

    def take(self, receiver: Receiver) -> bool:
        """Deliver the oldest message it wants at once, or remember the receiver."""
        for index, letter in enumerate(self._letters):
            if receiver.sender in (None, letter.sender):
                del self._letters[index]
                self._bytes -= letter.size_bytes
                receiver.letter.resolve(letter)
                return True
        self._receivers.append(receiver)
        return False

    def leave(self, receiver: Receiver) -> None:
        """The receiver waits no longer."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)
