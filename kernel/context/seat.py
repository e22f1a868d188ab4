"""A seat: one of the sequences that a model's engine holds KV for, and whose it is."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from aios.kernel.scheduler.request import Request


@dataclass(eq=False)
class Seat:
    """Holds the KV of the first ``length`` of ``tokens``. Without an owner it holds what the last
    one left behind."""

    number: int
    tokens: array[int] = field(default_factory=lambda: array("i"))
    length: int = 0
    owner: Request | None = None
    keys: list[int] = field(default_factory=list)
    """The prefix index's."""
    used: int = 0
    """When it was last used, in slices of the context manager."""
