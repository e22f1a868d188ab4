"""A branch: one way in which a value can be valid, as plain conditions for each type of JSON.

A schema is expanded to branches; a value is valid if it meets all conditions of one of them. A
condition applies to values of its type only. Branches never change; each function here returns an
effect, which makes a branch with one more condition, or None where the conditions contradict.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .document import Place, UnsupportedSchema
from .values import comparable

KINDS = {
    "null": frozenset({"null"}), "boolean": frozenset({"boolean"}),
    "integer": frozenset({"integer"}), "number": frozenset({"integer", "fraction"}),
    "string": frozenset({"string"}), "array": frozenset({"array"}),
    "object": frozenset({"object"}),
}  # fmt: skip
"""Types of JSON schema → types here, where a number is an integer or a fraction."""
ALL = frozenset().union(*KINDS.values())


@dataclass(frozen=True, slots=True)
class Term:
    """A condition that is a schema: it holds, or with ``positive`` False it does not.

    Without a place, one of the ``options`` holds. ``scopes``: the enclosing schemas whose
    ``unevaluated…`` keywords see what this one evaluates. ``above``: the schemas that led here
    without a step into the value.
    """

    place: Place | None
    positive: bool = True
    options: tuple[Term, ...] = ()
    scopes: tuple[int, ...] = ()
    above: tuple[Hashable, ...] = ()

    @property
    def key(self) -> Hashable:
        """Equal for terms with the same meaning."""
        if self.place is None:
            return frozenset(each.key for each in self.options)
        return self.place.key, self.positive


Terms = tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """What one schema says of items: of the first ones, and of the ``rest`` (None: nothing)."""

    prefix: tuple[Terms, ...] = ()
    rest: Terms | None = None
    contained: Term | None = None
    """Items that match it count as evaluated."""
    scopes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """What one schema says of members: by name, by pattern, and of the ``rest`` (None: nothing)."""

    named: Mapping[str, Terms] = field(default_factory=dict)
    patterns: Mapping[str, Terms] = field(default_factory=dict)
    rest: Terms | None = None
    scopes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Contains:
    """At least ``least`` and at most ``most`` items match."""

    term: Term
    least: int
    most: int | None
    problem: UnsupportedSchema


@dataclass(frozen=True, slots=True)
class Unevaluated:
    """Members (or items) that no schema of a scope has evaluated are valid in ``term``."""

    kind: str
    scope: int
    term: Term


@dataclass(frozen=True, slots=True)
class Branch:
    """The conditions of one branch, all of which hold."""

    types: frozenset[str] = ALL
    values: tuple[Any, ...] | None = None
    """The value is one of these."""
    excluded: tuple[Any, ...] = ()
    bounds: tuple[tuple[str, float], ...] = ()
    """Operators (``>=``, ``>``, ``<=``, ``<``) and numbers."""
    multiples: tuple[float, ...] = ()
    characters: tuple[int, int | None] = (0, None)
    patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    arrays: tuple[ArrayPart, ...] = ()
    items: tuple[int, int | None] = (0, None)
    contains: tuple[Contains, ...] = ()
    unique: UnsupportedSchema | None = None
    """Items differ from each other; the error to raise where that cannot be enforced."""
    objects: tuple[ObjectPart, ...] = ()
    required: tuple[str, ...] = ()
    forbidden: frozenset[str] = frozenset()
    members: tuple[int, int | None] = (0, None)
    names: Terms = ()
    unevaluated: tuple[Unevaluated, ...] = ()
    problems: tuple[tuple[str, UnsupportedSchema], ...] = ()
    """Types whose values a grammar cannot hold to this branch, and why."""


Effect = Callable[[Branch], Branch | None]
Alternative = tuple[Term | Effect, ...]
"""Conditions that hold together."""
Clause = list[Alternative]
"""At least one of the alternatives holds."""


def only(*kinds: str) -> Effect:
    """Allow these types of JSON schema."""
    allowed = frozenset().union(*(KINDS[kind] for kind in kinds))
    return lambda branch: _typed(branch, branch.types & allowed)


def never(*kinds: str) -> Effect:
    """Forbid these types of JSON schema."""
    forbidden = frozenset().union(*(KINDS[kind] for kind in kinds))
    return lambda branch: _typed(branch, branch.types - forbidden)


def within(types: frozenset[str]) -> Effect:
    """Allow these types, as in ``ALL``."""
    return lambda branch: _typed(branch, branch.types & types)


def _typed(branch: Branch, types: frozenset[str]) -> Branch | None:
    return replace(branch, types=types) if types else None


def one_of(values: tuple[Any, ...]) -> Effect:
    """Allow these values; of values allowed before, those among them."""

    def effect(branch: Branch) -> Branch | None:
        left = values
        if branch.values is not None:
            known = {comparable(value) for value in values}
            left = tuple(value for value in branch.values if comparable(value) in known)
        return replace(branch, values=left) if left else None

    return effect


def _changed(branch: Branch, name: str, value: Any) -> Branch:
    changes: dict[str, Any] = {name: value}
    return replace(branch, **changes)


def more(name: str, value: Any) -> Effect:
    """Add a condition to one of the lists."""
    return lambda branch: _changed(branch, name, (*getattr(branch, name), value))


def counted(name: str, least: int, most: int | None) -> Effect:
    """Narrow a range of counts."""

    def effect(branch: Branch) -> Branch:
        low, high = getattr(branch, name)
        both = [each for each in (high, most) if each is not None]
        return _changed(branch, name, (max(low, least), min(both) if both else None))

    return effect


def require(*names: str) -> Effect:
    """Require members by name."""

    def effect(branch: Branch) -> Branch | None:
        if branch.forbidden.intersection(names):
            return None
        fresh = [name for name in dict.fromkeys(names) if name not in branch.required]
        return replace(branch, required=(*branch.required, *fresh))

    return effect


def forbid(name: str) -> Effect:
    """Forbid a member by name."""

    def effect(branch: Branch) -> Branch | None:
        if name in branch.required:
            return _typed(branch, branch.types - KINDS["object"])
        return replace(branch, forbidden=branch.forbidden | {name})

    return effect


def cannot(kind: str, problem: UnsupportedSchema) -> Effect:
    """Note that a grammar cannot hold values of a type to this branch."""
    return lambda branch: replace(
        branch, problems=(*branch.problems, *((each, problem) for each in KINDS[kind]))
    )


def distinct(problem: UnsupportedSchema) -> Effect:
    """Require that items differ from each other."""
    return lambda branch: replace(branch, unique=problem)
