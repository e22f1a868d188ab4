"""State tables: which state may follow which. An illegal transition raises and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

S = TypeVar("S", bound=str)


class IllegalTransition(Exception):
    """A bug of the kernel's: the table has no such arrow."""


def step(table: Mapping[S, frozenset[S]], what: str, now: S, to: S) -> S:
    """Return ``to``, if the table lets ``now`` go there. Raises IllegalTransition."""
    if to not in table[now]:
        raise IllegalTransition(f"{what}: {now} → {to}")
    return to
