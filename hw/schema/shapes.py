"""Making the shapes of a branch, type by type. What a shape cannot express is refused."""

from __future__ import annotations

from typing import Any

from . import patterns, scalars, values
from .arrays import Finite, array_shapes
from .branch import Branch, Term, Terms
from .document import Document
from .objects import Expand, object_shapes
from .shape import Shape, Values, excludes, unsupported

MAX_TESTED = 1000
"""Limit on the values of an enum that are tested one by one, for what other keywords say."""
MAX_EXCLUDED = 64
"""Limit on the values that ``not`` excludes."""


class Shaper:
    """Makes the shapes of branches of one document.

    ``finite`` returns all values of terms if they are few, ``expand`` the shapes of terms.
    ``narrow``: objects and integers are held more narrowly than validators do; see guided.py.
    """

    def __init__(self, document: Document, finite: Finite, expand: Expand, *, narrow: bool) -> None:
        self._document, self._finite, self._expand = document, finite, expand
        self._narrow = narrow

    def shapes(self, terms: Terms, branch: Branch) -> list[Shape]:
        """Return the shapes of a branch of the terms. Raises UnsupportedSchema."""
        if branch.values is not None:
            return self._values(terms, branch)
        for kind, problem in branch.problems:
            if kind in branch.types:
                raise problem
        if len(branch.excluded) > MAX_EXCLUDED:
            raise unsupported(terms, "not", f"excludes more than {MAX_EXCLUDED} values")
        made: list[Shape] = []
        if "null" in branch.types and not excludes(branch, None):
            made.append({"type": "null"})
        if "boolean" in branch.types:
            made += scalars.booleans(branch)
        if branch.types & {"integer", "fraction"}:
            made += scalars.numbers(terms, branch, bounded=self._narrow)
        if "string" in branch.types:
            made += scalars.strings(terms, branch)
        if "array" in branch.types:
            made += array_shapes(terms, branch, self._finite)
        if "object" in branch.types:
            made += object_shapes(terms, branch, self._holds, self._expand, closes=self._narrow)
        return made

    def _values(self, terms: Terms, branch: Branch) -> list[Shape]:
        excluded = {values.comparable(value) for value in branch.excluded}
        fit = [value for value in branch.values or () if values.kind(value) in branch.types
               and values.comparable(value) not in excluded]  # fmt: skip
        if branch != Branch(branch.types, branch.values, branch.excluded):  # other conditions
            if len(fit) > MAX_TESTED:
                reason = f"has {len(fit):,} values beside other keywords; at most {MAX_TESTED:,}"
                raise unsupported(terms, "enum", reason)
            fit = [value for value in fit if all(self._holds(term, value) for term in terms)
                   and _has_format(branch, value)]  # fmt: skip
        for value in fit:
            number = values.inexact(value)
            if number is not None:
                raise unsupported(terms, "enum", f"has {number}, which a grammar would round")
        return [Values(tuple(fit))] if fit else []

    def _holds(self, term: Term, value: Any) -> bool:
        if term.place is None:
            return any(self._holds(each, value) for each in term.options)
        return self._document.accepts(term.place, value) is term.positive


def _has_format(branch: Branch, value: Any) -> bool:
    return not isinstance(value, str) or all(
        patterns.fits({"type": "string", "format": each}, value) for each in branch.formats
    )
