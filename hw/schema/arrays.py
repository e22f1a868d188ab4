"""Shapes of arrays: which items, how many, which ones match, and that they differ."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

from . import values
from .branch import Branch, Contains, Term, Terms
from .document import UnsupportedSchema
from .shape import ArrayShape, Shape, Values, excludes, joined, limits, unsupported

MAX_MATCH_AT = 12
"""An array has an item that ``contains`` asks for among its first ones, up to this number."""
MAX_MATCHES = 200
"""Limit on the ways to place such items."""
MAX_ARRAYS = 400
"""Limit on the arrays that are listed to keep their items distinct."""
Finite = Callable[[Terms], list[Any] | None]
"""Returns all values of terms if they are few, else None."""


def array_shapes(terms: Terms, branch: Branch, finite: Finite) -> list[Shape]:
    """Return the arrays of a branch. Raises UnsupportedSchema."""
    least, most = limits(terms, branch.items, "minItems", "maxItems")
    if excludes(branch, []):
        least = max(least, 1)
    if any(isinstance(value, list) and value for value in branch.excluded):
        raise unsupported(terms, "not", "cannot exclude arrays")
    count = max((len(part.prefix) for part in branch.arrays), default=0)
    prefix = [
        joined(
            term
            for part in branch.arrays
            for term in (part.prefix[at] if at < len(part.prefix) else part.rest or ())
        )
        for at in range(count)
    ]
    rest = joined(term for part in branch.arrays for term in part.rest or ())
    plain = ArrayShape(tuple(prefix), rest, least, most)
    made = [plain]
    for each in branch.contains:
        made = [placed for shape in made for placed in _containing(shape, each)]
        if len(made) > MAX_MATCHES:
            raise each.problem
    if branch.unique is not None:
        return [shape for one in made for shape in _unique(one, branch.unique, finite)]
    return [one for one in made if one.most is None or one.least <= one.most]


def _unique(shape: ArrayShape, problem: UnsupportedSchema, finite: Finite) -> list[Shape]:
    """List the arrays of a shape that have no item twice."""
    if shape.most is not None and shape.most <= 1:
        return [shape] if shape.least <= shape.most else []
    made: list[Any] = []
    level: list[list[Any]] = [[]]
    for at in itertools.count():
        made += [array for array in level if len(array) >= shape.least]
        if len(made) + len(level) > MAX_ARRAYS:
            raise problem
        if not level or at == shape.most:
            break
        terms = shape.prefix[at] if at < len(shape.prefix) else shape.rest
        found = [] if terms is None else finite(terms)
        if found is None:
            raise problem
        level = [[*array, value] for array in level for value in found
                 if not any(values.same(value, each) for each in array)]  # fmt: skip
    return [Values(tuple(made))] if made else []


def _containing(shape: ArrayShape, each: Contains) -> Iterable[ArrayShape]:
    """Return the shapes of arrays with the right number of items that match."""
    match, other = each.term, Term(each.term.place, not each.term.positive)
    if each.term.place is None:
        raise each.problem
    if each.least == 0 and each.most is None:
        return [shape]
    longest = MAX_MATCH_AT if shape.most is None else min(shape.most, MAX_MATCH_AT)
    counts = [each.least] if each.most is None else range(each.least, each.most + 1)
    if each.least > longest and (shape.most is None or shape.most >= each.least):
        raise each.problem
    fill = () if each.most is None else (other,)
    while sum(math.comb(longest, count) for count in counts) > MAX_MATCHES:
        longest -= 1
        if longest < (each.most or each.least):
            raise each.problem
    return [
        placed for count in counts for places in itertools.combinations(range(longest), count)
        if (placed := _placed(shape, places, (match,), fill)) is not None
    ]  # fmt: skip


def _placed(
    shape: ArrayShape, places: tuple[int, ...], match: Terms, fill: Terms
) -> ArrayShape | None:
    """Return a shape whose items at these places match, and whose others meet ``fill``."""
    needed = places[-1] + 1 if places else 0
    length, least = max(needed, len(shape.prefix)), max(shape.least, needed)
    prefix = tuple(_narrowed(shape, at, match if at in places else fill) for at in range(length))
    if None in prefix[:least]:
        return None
    rest = None if shape.rest is None else joined((*shape.rest, *fill))
    return ArrayShape(prefix, rest, least, shape.most)


def _narrowed(shape: ArrayShape, at: int, more: Terms) -> Terms | None:
    terms = shape.prefix[at] if at < len(shape.prefix) else shape.rest
    return None if terms is None else joined((*terms, *more))
