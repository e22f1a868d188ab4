"""The keywords of JSON schema, each as the conditions under which a value meets it or fails it.

``CLAUSES`` has a row for every keyword that is enforced: what it says of a valid value (all clauses
hold), and of an invalid one (one of the alternatives holds). ``ANNOTATIONS`` say nothing of values.
A keyword in neither is none of the specification's and is left alone, as it demands. Drafts before
2020-12 are read, too: lists as ``items``, ``dependencies``, ``definitions``, ``$recursiveRef``.
"""

from __future__ import annotations

import itertools
from typing import Any

from . import part_keywords as parts
from . import scalar_keywords as scalars
from .branch import ALL, Alternative, Clause, Term, more, never, one_of, only, require, within
from .use import Negative, Positive, Use, always, impossible, unless_true

MAX_CHOICES_SEEN = 6
"""Limit on the choices of anyOf and oneOf under ``unevaluated…``, which tell any set apart."""


def _types(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _excluded(use: Use) -> Clause:
    values = use.value if use.keyword == "enum" else [use.value]
    return [tuple(more("excluded", value) for value in values)]


def _all_of(use: Use) -> list[Clause]:
    return [[(use.term("allOf", n),)] for n in range(len(use.value))]


def _any_of(use: Use) -> list[Clause]:
    count = len(use.value)
    if not use.scopes:
        return [[(use.term("anyOf", n),) for n in range(count)]]
    _check_seen(use, count)
    sets = (chosen for size in range(1, count + 1)
            for chosen in itertools.combinations(range(count), size))  # fmt: skip
    return [[tuple(use.term("anyOf", n) for n in chosen) for chosen in sets]]


def _check_seen(use: Use, count: int) -> None:
    if count > MAX_CHOICES_SEEN:
        raise use.problem(f"has {count} choices; at most {MAX_CHOICES_SEEN} with unevaluated…")


def _one_of(use: Use) -> list[Clause]:
    """Return each choice, and, for the types of values where others overlap with it, that those
    do not hold."""
    count = range(len(use.value))
    places = [use.document.below(use.place, "oneOf", n) for n in count]
    shared = {pair: use.overlap(places[pair[0]], places[pair[1]])
              for pair in itertools.combinations(count, 2)}  # fmt: skip
    made: Clause = []
    for n in count:
        others = {m: shared[min(m, n), max(m, n)] for m in count if m != n}
        doubtful = frozenset().union(*others.values())
        nots = [use.term("oneOf", m, positive=False) for m, types in others.items() if types]
        made.append((within(ALL - doubtful), use.term("oneOf", n)))
        made.append((within(doubtful), use.term("oneOf", n), *nots))
    return [made]


def _not_one_of(use: Use) -> Clause:
    count = range(len(use.value))
    none: Alternative = tuple(use.term("oneOf", n, positive=False) for n in count)
    return [none, *((use.term("oneOf", a), use.term("oneOf", b))
                    for a, b in itertools.combinations(count, 2))]  # fmt: skip


def _if(use: Use) -> list[Clause]:
    schema = use.place.schema
    then = (use.term("then"),) if "then" in schema else ()
    otherwise = (use.term("else"),) if "else" in schema else ()
    if not then and not otherwise:
        return [[(use.term("if"),), ()]] if use.scopes else []
    return [[(use.term("if"), *then), (use.term("if", positive=False), *otherwise)]]


def _not_if(use: Use) -> Clause:
    schema = use.place.schema
    made: Clause = []
    if "then" in schema:
        made.append((use.term("if"), use.term("then", positive=False)))
    if "else" in schema:
        made.append((use.term("if", positive=False), use.term("else", positive=False)))
    return made


def _none(use: Use) -> list[Term]:
    """Return that none of a keyword's schemas holds."""
    return [use.term(use.keyword, n, positive=False) for n in range(len(use.value))]


def _not_not(use: Use) -> Clause:
    return [(use.term("not"),)]


def _not_reference(use: Use) -> Clause:
    return [(_reference(use, positive=False),)]


def _reference(use: Use, *, positive: bool = True) -> Term:
    target = use.document.target(use.place, use.keyword)
    return Term(target, positive, scopes=use.scopes if positive else (), above=use.above)


# ------------------------------------------------------------------------------ table

_ARRAY = (parts.items, parts.not_items)
_OBJECT = (parts.members, parts.not_members)
_DEPENDENCIES = (parts.dependencies, parts.not_dependencies)
_REFERENCE = (always(lambda use: (_reference(use),)), _not_reference)
CLAUSES: dict[str, tuple[Positive, Negative]] = {
    "type": (always(lambda use: (only(*_types(use.value)),)),
             lambda use: [(never(*_types(use.value)),)]),
    "const": (always(lambda use: (one_of((use.value,)),)), _excluded),
    "enum": (always(lambda use: (one_of(tuple(use.value)),)), _excluded),
    "$ref": _REFERENCE, "$dynamicRef": _REFERENCE, "$recursiveRef": _REFERENCE,
    "allOf": (_all_of, lambda use: [(term,) for term in _none(use)]),
    "anyOf": (_any_of, lambda use: [(*_none(use),)]),
    "oneOf": (_one_of, _not_one_of),
    "not": (always(lambda use: (use.term("not", positive=False),)), _not_not),
    "if": (_if, _not_if),
    "minimum": scalars.bounds(">=", "exclusiveMinimum"),
    "maximum": scalars.bounds("<=", "exclusiveMaximum"),
    "exclusiveMinimum": scalars.bounds(">"), "exclusiveMaximum": scalars.bounds("<"),
    "multipleOf": (always(lambda use: (more("multiples", use.value),)), impossible("number")),
    "minLength": scalars.counts("string", "characters", least=True),
    "maxLength": scalars.counts("string", "characters", least=False),
    "pattern": (scalars.pattern, impossible("string")),
    "format": (scalars.format, scalars.not_format),
    "prefixItems": _ARRAY, "items": _ARRAY,
    "minItems": scalars.counts("array", "items", least=True),
    "maxItems": scalars.counts("array", "items", least=False),
    "contains": (parts.contains, parts.not_contains),
    "uniqueItems": (parts.unique, lambda use: impossible("array")(use) if use.value else []),
    "properties": _OBJECT, "patternProperties": _OBJECT, "additionalProperties": _OBJECT,
    "required": (always(lambda use: (require(*use.value),)), parts.not_required),
    "minProperties": scalars.counts("object", "members", least=True),
    "maxProperties": scalars.counts("object", "members", least=False),
    "propertyNames": (always(lambda use: (more("names", use.inner("propertyNames")),)),
                      parts.not_names),
    "dependentRequired": _DEPENDENCIES, "dependentSchemas": _DEPENDENCIES,
    "dependencies": _DEPENDENCIES,
    "unevaluatedProperties": (parts.unevaluated("object"), unless_true("object")),
    "unevaluatedItems": (parts.unevaluated("array"), unless_true("array")),
}  # fmt: skip
"""Keyword → what it says of a valid value, and of an invalid one."""
GROUPS = (("prefixItems", "items"), ("properties", "patternProperties", "additionalProperties"))
"""Keywords that one row handles together; the first one present stands for all."""


def rows(schema: dict[str, Any]) -> list[str]:
    """Return the keywords of a schema to handle, in their order."""
    chosen = [word for word in schema if word in CLAUSES]
    for group in GROUPS:
        present = [word for word in chosen if word in group]
        chosen = [word for word in chosen if word not in present[1:]]
    return chosen
