"""Expanding a schema: from keywords to the branches in which a value can be valid.

All conditions on one value are expanded together: references, ``allOf``, choices, negations. Parts
of a value keep their schemas, to be expanded on their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from .branch import Alternative, ArrayPart, Branch, Clause, ObjectPart, Term, Terms, Unevaluated
from .document import Document, Place, UnsupportedSchema
from .keywords import CLAUSES, rows
from .use import Use

MAX_STEPS = 100_000
"""Limit on the conditions that are looked at for one document."""
MAX_BRANCHES = 300
"""Limit on the branches of one value."""


class Expander:
    """Expands the schemas of one document."""

    def __init__(
        self,
        document: Document,
        overlap: Callable[[Place, Place], frozenset[str]],
        *,
        formats: bool,
    ) -> None:
        """``overlap`` returns the types of values that may be valid in both places."""
        self._document, self._overlap, self._formats = document, overlap, formats
        self._steps = 0
        self._scopes = itertools.count()

    def branches(self, terms: Terms) -> list[Branch]:
        """Return the branches in which all terms hold. Raises UnsupportedSchema."""
        found: list[Branch] = []
        waiting: list[tuple[Branch, tuple[Term | Clause, ...]]] = [(Branch(), terms)]
        while waiting:
            branch, pending = waiting.pop()
            if not pending:
                found.append(_closed(branch))
                self._check(terms, len(found) <= MAX_BRANCHES)
                continue
            first, rest = pending[0], pending[1:]
            if isinstance(first, Term):
                waiting.append((branch, (*self._clauses(first), *rest)))
                continue
            self._steps += len(first)
            self._check(terms, self._steps <= MAX_STEPS)
            for alternative in reversed(first):
                made = _met(branch, alternative)
                if made is not None:
                    fresh = tuple(each for each in alternative if isinstance(each, Term))
                    waiting.append((made, (*fresh, *rest)))
        return found

    def _clauses(self, term: Term) -> list[Clause]:
        place = term.place
        if place is None:
            return [[(each,) for each in term.options]]
        schema = place.schema
        if isinstance(schema, bool):
            return [] if schema is term.positive else [[]]
        if term.key in term.above:
            raise UnsupportedSchema(place.pointer, "$ref", "leads to itself")
        if schema.get("nullable") is True:
            reason = 'is OpenAPI 3.0\'s; write "type": [..., "null"]'
            raise UnsupportedSchema(place.pointer, "nullable", reason)
        scopes = term.scopes
        if term.positive and ("unevaluatedProperties" in schema or "unevaluatedItems" in schema):
            scopes = (*scopes, next(self._scopes))
        above = (*term.above, term.key)
        uses = [(CLAUSES[word], Use(self._document, place, word, scopes, above, self._overlap,
                                    self._formats)) for word in rows(schema)]  # fmt: skip
        if term.positive:
            return [clause for (positive, _), use in uses for clause in positive(use)]
        return [[each for (_, negative), use in uses for each in negative(use)]]

    def _check(self, terms: Terms, good: bool) -> None:
        if not good:
            places = [term.place for term in terms if term.place is not None]
            pointer = places[0].pointer if places else "#"
            reason = "has too many combinations of alternatives; simplify anyOf, oneOf, if or not"
            raise UnsupportedSchema(pointer, "the schema", reason)


def _met(branch: Branch, alternative: Alternative) -> Branch | None:
    """Return a branch with the effects of an alternative; None if they contradict it."""
    made: Branch | None = branch
    for each in alternative:
        if made is not None and not isinstance(each, Term):
            made = each(made)
    return made


def _closed(branch: Branch) -> Branch:
    """Return a branch with its ``unevaluated…`` conditions turned into those of parts."""
    for each in branch.unevaluated:
        if each.kind == "object":
            part = _rest_of_object(branch, each)
            branch = branch if part is None else replace(branch, objects=(*branch.objects, part))
        else:
            items = _rest_of_array(branch, each)
            branch = branch if items is None else replace(branch, arrays=(*branch.arrays, items))
    return replace(branch, unevaluated=())


def _rest_of_object(branch: Branch, each: Unevaluated) -> ObjectPart | None:
    seen = [part for part in branch.objects if each.scope in part.scopes]
    if any(part.rest is not None for part in seen):
        return None
    named: dict[str, Terms] = {name: () for part in seen for name in part.named}
    by_pattern: dict[str, Terms] = {regex: () for part in seen for regex in part.patterns}
    return ObjectPart(named, by_pattern, (each.term,))


def _rest_of_array(branch: Branch, each: Unevaluated) -> ArrayPart | None:
    seen = [part for part in branch.arrays if each.scope in part.scopes]
    if any(part.rest is not None for part in seen):
        return None
    count = max((len(part.prefix) for part in seen), default=0)
    contained = [part.contained for part in seen if part.contained is not None]
    term = Term(None, options=(each.term, *contained)) if contained else each.term
    return ArrayPart(((),) * count, (term,))
