"""Shapes of objects: which members, by name and by pattern, and how many."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from . import patterns
from .branch import Branch, Term, Terms
from .scalars import as_pattern
from .shape import ObjectShape, Shape, Values, excludes, joined, limits, unsupported

MAX_OPTIONAL_COUNTED = 6
"""Limit on the optional members of an object whose members are counted."""
_TEXT = {"type": "string"}
Expand = Callable[[Terms], list[Shape]]
Holds = Callable[[Term, Any], bool]
"""Tells if a value meets a term."""


def object_shapes(
    terms: Terms, branch: Branch, holds: Holds, expand: Expand, *, closes: bool
) -> list[Shape]:
    """Return the objects of a branch. ``expand`` returns the shapes of terms. ``closes``: an object
    that lists members, and is not told of others, has no others. Raises UnsupportedSchema."""
    least, most = limits(terms, branch.members, "minProperties", "maxProperties")
    if excludes(branch, {}):
        least = max(least, 1)
    if any(isinstance(value, dict) and value for value in branch.excluded):
        raise unsupported(terms, "not", "cannot exclude objects")
    names = dict.fromkeys(name for part in branch.objects for name in part.named)
    names |= dict.fromkeys((*branch.required, *sorted(branch.forbidden)))
    named = {name: _member(branch, name, holds) for name in names}
    regexes = dict.fromkeys(regex for part in branch.objects for regex in part.patterns)
    by_pattern = {regex: joined(term for part in branch.objects for term in (
        part.patterns.get(regex, part.rest or ())))
        for regex in regexes}  # fmt: skip
    overlap = patterns.overlap(list(regexes))
    if overlap:
        raise unsupported(terms, "patternProperties", overlap)
    rest = joined(term for part in branch.objects for term in part.rest or ())
    listed = sum(each is not None for each in named.values())
    told = bool(regexes or branch.names) or any(part.rest is not None for part in branch.objects)
    if closes and listed and not told and least <= listed:
        rest = None
    shape = ObjectShape(named, by_pattern, rest, branch.required, least, most)
    shape = _with_names(terms, branch, shape, holds, expand)
    if any(shape.named[name] is None for name in shape.required):
        return []
    return list(_counted(terms, shape))


def _member(branch: Branch, name: str, holds: Holds) -> Terms | None:
    """Return what a member by this name has to meet."""
    if name in branch.forbidden:
        return None
    if not all(holds(term, name) for term in branch.names):
        return None
    found: list[Term] = []
    for part in branch.objects:
        met = [*part.named.get(name, ())]
        hit = [terms for regex, terms in part.patterns.items() if patterns.matches(regex, name)]
        met += [term for terms in hit for term in terms]
        found += met if hit or name in part.named else part.rest or ()
    return joined(found)


def _with_names(
    terms: Terms, branch: Branch, shape: ObjectShape, holds: Holds, expand: Expand
) -> ObjectShape:
    """Hold the names of undeclared members to ``propertyNames``."""
    allowed = joined(branch.names)
    free = shape.rest is not None or any(each is not None for each in shape.patterns.values())
    if allowed == () or not free:
        return shape
    found = [] if allowed is None else expand((*allowed, _text_like(allowed[0])))
    listed = [value for each in found if isinstance(each, Values) for value in each.listed
              if isinstance(value, str)]  # fmt: skip
    named = dict(shape.named)
    for name in listed:
        named.setdefault(name, _member(branch, name, holds))
    regexes = [as_pattern(each) for each in found if not isinstance(each, Values)]
    if None in regexes or len(regexes) > 1 or (regexes and shape.patterns):
        reason = "can be enforced as one pattern, a range of lengths, or a list of names"
        raise unsupported(terms, "propertyNames", reason)
    by_pattern = {str(regex): shape.rest for regex in regexes}
    return ObjectShape(named, by_pattern, None, shape.required, shape.least, shape.most)


def _text_like(term: Term) -> Term:
    """Return the term that a value is a text, as names are."""
    while term.place is None:
        term = term.options[0]
    return Term(term.place._replace(schema=_TEXT, key="text"))


def _counted(terms: Terms, shape: ObjectShape) -> Iterable[ObjectShape]:
    """Return the shapes of objects with the right number of members."""
    optional = [name for name, each in shape.named.items()
                if each is not None and name not in shape.required]  # fmt: skip
    count = len(shape.required)
    if shape.least <= count and shape.most is None:
        yield replace(shape, least=0)
        return
    if len(optional) > MAX_OPTIONAL_COUNTED:
        reason = f"cannot be enforced with more than {MAX_OPTIONAL_COUNTED} optional properties"
        keyword = "minProperties" if shape.least > count else "maxProperties"
        raise unsupported(terms, keyword, reason)
    free = shape.rest is not None or any(each is not None for each in shape.patterns.values())
    for size in range(len(optional) + 1):
        for chosen in itertools.combinations(optional, size):
            have = count + size
            if shape.most is not None and have > shape.most:
                continue
            missing = max(0, shape.least - have)
            if missing and not free:
                continue
            if missing > 1:
                reason = "cannot be enforced: names that the schema does not list may repeat"
                raise unsupported(terms, "minProperties", reason)
            named = {name: each if name in shape.required or name in chosen else None
                     for name, each in shape.named.items()}  # fmt: skip
            required = (*shape.required, *chosen)
            yield replace(shape, named=named, required=required, least=missing + have)
