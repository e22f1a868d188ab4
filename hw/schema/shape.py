"""Shapes: what llguidance is told to hold a value to, one type at a time.

A branch becomes shapes: lists of values, plain schemas of scalars, and arrays and objects whose
parts are schemas to be expanded on their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import values
from .branch import Branch, Term, Terms
from .document import UnsupportedSchema

Plain = dict[str, Any]
MAX_COUNT = 100_000
"""Limit on a minimum of characters, items or members."""
UNREACHABLE = 1 << 28
"""No text is that long, so a maximum from here on says nothing."""


@dataclass(frozen=True, slots=True)
class ArrayShape:
    """An array. ``rest``: of the items after ``prefix``; None if there are none."""

    prefix: tuple[Terms | None, ...]
    rest: Terms | None
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class ObjectShape:
    """An object. Members come in the order of ``named``, then others."""

    named: Mapping[str, Terms | None] = field(default_factory=dict)
    patterns: Mapping[str, Terms | None] = field(default_factory=dict)
    rest: Terms | None = ()
    required: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Values:
    """One of these values."""

    listed: tuple[Any, ...]


Shape = Values | Plain | ArrayShape | ObjectShape


def joined(terms: Iterable[Term]) -> Terms | None:
    """Return the terms without those that say nothing; None if one is never met."""
    made: dict[Any, Term] = {}
    for term in terms:
        if term.place is not None and isinstance(term.place.schema, bool):
            if term.place.schema is not term.positive:
                return None
        elif term.place is None or term.place.schema or not term.positive:
            made.setdefault(term.key, term)
    return tuple(made.values())


def unsupported(terms: Terms, keyword: str, reason: str) -> UnsupportedSchema:
    places = [term.place for term in terms if term.place is not None]
    return UnsupportedSchema(places[0].pointer if places else "#", keyword, reason)


def excludes(branch: Branch, value: Any) -> bool:
    return any(values.same(value, each) for each in branch.excluded)


def limits(
    terms: Terms, limits: tuple[int, int | None], low: str, high: str
) -> tuple[int, int | None]:
    least, most = limits
    if least > MAX_COUNT:
        raise unsupported(terms, low, f"is {least:,}; the limit is {MAX_COUNT:,}")
    return least, None if most is not None and most >= UNREACHABLE else most
