"""Seats: the places for sequences in a model's engine, their owners, and who loses one."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from .sequence import Sequence

Coldness = Callable[[Sequence], tuple[float, ...]]
"""Orders the owners of seats: the one with the greatest key loses its seat first."""


@dataclass(eq=False)
class Seat:
    """Holds the KV of the first ``length`` of ``tokens``. Without an owner it holds what the last
    owner left behind."""

    number: int
    tokens: array[int] = field(default_factory=lambda: array("i"))
    length: int = 0
    owner: Sequence | None = None
    keys: list[int] = field(default_factory=list)
    """Keys of its blocks in the prefix index."""
    used: int = 0
    """When it was last used, in slices of the context manager."""
    share_limit: int = sys.maxsize
    """Limit on the tokens whose KV others may take. With a rung that replays: the prompt's, since
    the KV of a generated token differs from that of the same token in a prompt."""

    @property
    def sharable(self) -> int:
        """Number of tokens whose KV others may take."""
        return min(self.length, self.share_limit)


def pick(
    seats: Iterable[Seat], keep: Collection[Sequence], coldness: Coldness, source: Seat | None
) -> Seat:
    """Return the seat that a sequence gets: an empty one, else the free one that was not used for
    longest, else that of the coldest owner who is not in ``keep``.

    ``source`` is to be copied, so it is the last choice: its content moves along with the copy.
    """
    others = [seat for seat in seats if seat is not source]
    free = [seat for seat in others if seat.owner is None]
    if free:
        return min(free, key=lambda s: (s.length > 0, s.used if s.length else 0, s.number))
    owned = [seat for seat in others if seat.owner not in keep]
    if owned:
        return max(owned, key=lambda s: coldness(s.owner) if s.owner else ())
    assert source
    return source


def problems(seats: list[Seat], requests: Collection[Sequence]) -> list[str]:
    """Return what is wrong with the assignment of seats to living requests."""
    found = []
    for seat in seats:
        owner = seat.owner
        if owner is not None and owner.seat != seat.number:
            found.append(f"seat {seat.number}: its request {owner.id} says {owner.seat}")
        if owner is not None and owner not in requests:
            found.append(f"seat {seat.number}: held by request {owner.id}, which has ended")
        if seat.length > len(seat.tokens):
            found.append(f"seat {seat.number}: {seat.length} of {len(seat.tokens)} tokens")
    for request in requests:
        if request.seat is not None and seats[request.seat].owner is not request:
            found.append(f"request {request.id}: not in its seat {request.seat}")
        if request.seat is not None and request.image is not None:
            found.append(f"request {request.id}: seated and parked at once")
    return found
