"""Making the shapes of a branch, type by type. What a shape cannot express is refused."""

from __future__ import annotations

from typing import Any

from . import patterns, scalars, values
from .arrays import Finite, array_shapes
from .branch import KINDS, Branch, Term, Terms
from .document import Document
from .objects import Expand, object_shapes
from .shape import Plain, Shape, Values, excludes, unsupported

MAX_EXCLUDED = 64
"""Limit on the values that ``not`` excludes."""
_QUICK = frozenset({"enum", "const", "type", "title", "description", "default", "$comment"})


class Shaper:
    """Makes the shapes of branches of one document.

    ``finite`` returns all values of terms if they are few, ``expand`` the shapes of terms.
    """

    def __init__(self, document: Document, finite: Finite, expand: Expand) -> None:
        self._document, self._finite, self._expand = document, finite, expand
        self._sets: dict[int, frozenset[Any]] = {}

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
            made += scalars.numbers(terms, branch)
        if "string" in branch.types:
            made += scalars.strings(terms, branch)
        if "array" in branch.types:
            made += array_shapes(terms, branch, self._finite)
        if "object" in branch.types:
            made += object_shapes(terms, branch, self._holds, self._expand)
        return made

    def _values(self, terms: Terms, branch: Branch) -> list[Shape]:
        fit = [value for value in branch.values or () if values.kind(value) in branch.types
               and all(self._holds(term, value) for term in terms)
               and _has_format(branch, value)]  # fmt: skip
        for value in fit:
            number = values.inexact(value)
            if number is not None:
                raise unsupported(terms, "enum", f"has {number}, which a grammar would round")
        return [Values(tuple(fit))] if fit else []

    def _holds(self, term: Term, value: Any) -> bool:
        if term.place is None:
            return any(self._holds(each, value) for each in term.options)
        schema = term.place.schema
        listed = isinstance(schema, dict) and schema.keys() & {"enum", "const"}
        if listed and len(listed) == 1 and schema.keys() <= _QUICK:  # a long enum is common
            return term.positive == self._is_listed(schema, value)
        return self._document.accepts(term.place, value) is term.positive

    def _is_listed(self, schema: Plain, value: Any) -> bool:
        if id(schema) not in self._sets:
            listed = schema.get("enum", [schema.get("const")])
            self._sets[id(schema)] = frozenset(map(values.comparable, listed))
        kinds = schema.get("type", list(KINDS))
        kinds = kinds if isinstance(kinds, list) else [kinds]
        return values.comparable(value) in self._sets[id(schema)] and any(
            values.kind(value) in KINDS[each] for each in kinds
        )


def _has_format(branch: Branch, value: Any) -> bool:
    return not isinstance(value, str) or all(
        patterns.fits({"type": "string", "format": each}, value) for each in branch.formats
    )
