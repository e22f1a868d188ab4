"""A keyword in use: its value, the schemas below it, and the errors about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .branch import Alternative, Clause, Term, cannot, only
from .document import Document, Place, UnsupportedSchema


class Use(NamedTuple):
    """A keyword where it is used: ``scopes`` are those of the schema, its own among them."""

    document: Document
    place: Place
    keyword: str
    scopes: tuple[int, ...]
    above: tuple[Any, ...]
    overlap: Callable[[Place, Place], frozenset[str]]
    assert_formats: bool

    @property
    def value(self) -> Any:
        """The keyword's value."""
        return self.place.schema.get(self.keyword)

    def term(self, *path: str | int, positive: bool = True) -> Term:
        """Return a schema below, for the same value."""
        return Term(self.document.below(self.place, *path), positive,
                    scopes=self.scopes if positive else (), above=self.above)  # fmt: skip

    def inner(self, *path: str | int, positive: bool = True) -> Term:
        """Return a schema below, for a part of the value."""
        return Term(self.document.below(self.place, *path), positive)

    def problem(self, reason: str, keyword: str = "") -> UnsupportedSchema:
        """Return the error for something that a grammar cannot enforce."""
        return UnsupportedSchema(self.place.pointer, keyword or self.keyword, reason)


Positive = Callable[[Use], list[Clause]]
Negative = Callable[[Use], Clause]


def always(make: Callable[[Use], Alternative]) -> Positive:
    """Return one clause with one alternative."""
    return lambda use: [[make(use)]]


def impossible(kind: str) -> Negative:
    """Return the row of a keyword whose failure a grammar cannot express."""
    return lambda use: [(only(kind), cannot(kind, use.problem("cannot be enforced under not")))]


def unless_true(kind: str) -> Negative:
    """Return the row of a keyword that cannot fail with the value true."""
    return lambda use: [] if use.value is True else impossible(kind)(use)
