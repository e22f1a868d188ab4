"""Keywords about the parts of a value: the items of an array, the members of an object."""

from __future__ import annotations

from . import patterns
from .branch import (
    Alternative,
    ArrayPart,
    Clause,
    Contains,
    Effect,
    ObjectPart,
    Term,
    Terms,
    Unevaluated,
    cannot,
    counted,
    distinct,
    forbid,
    more,
    only,
    require,
)
from .document import UnsupportedSchema
from .use import Positive, Use, always, impossible


def _array_parts(use: Use) -> tuple[list[Term], Term | None]:
    """Return the schemas of the first items, and of the rest."""
    schema = use.place.schema
    if isinstance(schema.get("items"), list):
        prefix = [use.inner("items", n) for n in range(len(schema["items"]))]
        rest = use.inner("additionalItems") if "additionalItems" in schema else None
        return prefix, rest
    prefix = [use.inner("prefixItems", n) for n in range(len(schema.get("prefixItems", ())))]
    return prefix, use.inner("items") if "items" in schema else None


def items(use: Use) -> list[Clause]:
    prefix, rest = _array_parts(use)
    part = ArrayPart(tuple((each,) for each in prefix), None if rest is None else (rest,),
                     scopes=use.scopes)  # fmt: skip
    return [[(more("arrays", part),)]]


def not_items(use: Use) -> Clause:
    prefix, rest = _array_parts(use)
    made: Clause = []
    for at, each in enumerate(prefix):
        fails = Term(each.place, False)
        part = ArrayPart((*([()] * at), (fails,)))
        made.append((only("array"), counted("items", at + 1, None), more("arrays", part)))
    if rest is None or rest.place is None or rest.place.schema is True:
        return made
    problem = use.problem("after prefixItems cannot be enforced under not", "items")
    if rest.place.schema is False:
        made.append((only("array"), counted("items", len(prefix) + 1, None)))
    elif not prefix:
        fails = Term(rest.place, False)
        made.append((only("array"), more("contains", Contains(fails, 1, None, problem))))
    else:
        made.append((only("array"), cannot("array", problem)))
    return made


def _contains_range(use: Use) -> tuple[int, int | None]:
    schema = use.place.schema
    most = schema.get("maxContains")
    return int(schema.get("minContains", 1)), None if most is None else int(most)


def contains(use: Use) -> list[Clause]:
    least, most = _contains_range(use)
    term = use.inner("contains")
    effects: list[Effect] = [more("contains", Contains(term, least, most, _no_contains(use)))]
    if use.document.contains_evaluates:
        effects.append(more("arrays", ArrayPart(contained=term, scopes=use.scopes)))
    return [[tuple(effects)]]


def not_contains(use: Use) -> Clause:
    least, most = _contains_range(use)
    term, problem = use.inner("contains"), _no_contains(use)
    made: Clause = []
    if least:
        made.append((only("array"), more("contains", Contains(term, 0, least - 1, problem))))
    if most is not None:
        made.append((only("array"), more("contains", Contains(term, most + 1, None, problem))))
    return made


def _no_contains(use: Use) -> UnsupportedSchema:
    return use.problem("cannot be enforced for so many items, or twice for one array")


def unique(use: Use) -> list[Clause]:
    if not use.value:
        return []
    return [[(distinct(use.problem("can be enforced only for items with few possible values")),)]]


# ---------------------------------------------------------------------------- objects


def _object_terms(use: Use, keyword: str) -> dict[str, Terms]:
    return {name: (use.inner(keyword, name),) for name in use.place.schema.get(keyword, ())}


def members(use: Use) -> list[Clause]:
    by_pattern = _object_terms(use, "patternProperties")
    rest = (
        (use.inner("additionalProperties"),) if "additionalProperties" in use.place.schema else None
    )
    every = [by_pattern.pop(regex) for regex in list(by_pattern) if patterns.is_universal(regex)]
    part = ObjectPart(_object_terms(use, "properties"), by_pattern, None if every else rest,
                      use.scopes)  # fmt: skip
    effects: list[Effect] = [more("objects", part)]
    effects += [more("objects", ObjectPart(rest=terms, scopes=use.scopes)) for terms in every]
    for pattern in by_pattern:
        problem = patterns.problem(pattern)
        if problem:
            reason = f"{pattern[:80]!r} cannot be used: {problem}"
            effects.append(cannot("object", use.problem(reason, "patternProperties")))
    return [[tuple(effects)]]


def not_members(use: Use) -> Clause:
    schema = use.place.schema
    made: Clause = []
    for name in schema.get("properties", ()):
        part = ObjectPart({name: (use.inner("properties", name, positive=False),)})
        made.append((only("object"), require(name), more("objects", part)))
    for keyword in ("patternProperties", "additionalProperties"):
        value = schema.get(keyword, True)
        each = value.values() if keyword == "patternProperties" and value is not True else [value]
        if any(one is not True for one in each):
            problem = use.problem("cannot be enforced under not", keyword)
            made.append((only("object"), cannot("object", problem)))
    return made


def not_required(use: Use) -> Clause:
    if isinstance(use.value, bool):
        return []
    return [(only("object"), forbid(name)) for name in use.value]


def not_names(use: Use) -> Clause:
    if use.value is True:
        return []
    if use.value is False:
        return [(only("object"), counted("members", 1, None))]
    return impossible("object")(use)


def dependencies(use: Use) -> list[Clause]:
    return [[(forbid(name),), (only("object"), require(name), *_needs(use, name, positive=True))]
            for name in use.value]  # fmt: skip


def _needs(use: Use, name: str, *, positive: bool) -> Alternative:
    needed = use.value[name]
    if isinstance(needed, list):
        return (require(*needed),)
    return (use.term(use.keyword, name, positive=positive),)


def not_dependencies(use: Use) -> Clause:
    made: Clause = []
    for name, needed in use.value.items():
        if isinstance(needed, list):
            made += [(only("object"), require(name), forbid(each)) for each in needed]
        else:
            fails = use.term(use.keyword, name, positive=False)
            made.append((only("object"), require(name), fails))
    return made


def unevaluated(kind: str) -> Positive:
    return always(lambda use: (
        more("unevaluated", Unevaluated(kind, use.scopes[-1], use.inner(use.keyword))),
        more("objects", ObjectPart(scopes=use.scopes[:-1], rest=())) if kind == "object"
        else more("arrays", ArrayPart(scopes=use.scopes[:-1], rest=())),
    ))  # fmt: skip
