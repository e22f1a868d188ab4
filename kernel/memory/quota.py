"""Quotas of scopes, and the error of what would exceed one. Pure."""

from __future__ import annotations

from typing import NamedTuple

from aios.syscalls.errors import ResourceExhausted


class Limits(NamedTuple):
    """Limits of one scope."""

    notes: int
    size_bytes: int


class Usage(NamedTuple):
    """Notes and bytes of one scope."""

    notes: int
    size_bytes: int


def check_quota(
    scope: str, usage: Usage, limits: Limits, notes: int, size: int, oldest: str
) -> None:
    """Raise ResourceExhausted when ``notes`` and ``size`` more exceed the limits. ``oldest``: the
    id of the note to remove first, if known."""
    if usage.notes + notes > limits.notes:
        raise ResourceExhausted(
            f"{scope} holds {usage.notes:,} notes; the limit is {limits.notes:,}",
            f"remove some, the oldest is {oldest or 'the first of the list'}: "
            "aios.memory.remove(id); or start the kernel with a larger --notes-max",
        )
    if usage.size_bytes + size > limits.size_bytes:
        raise ResourceExhausted(
            f"{scope} holds {usage.size_bytes:,} bytes of notes; {size:,} more exceed the limit of "
            f"{limits.size_bytes:,}",
            "remove some: aios.memory.list(), aios.memory.remove(id); or start the kernel with a "
            "larger --notes-disk",
        )
