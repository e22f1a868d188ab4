"""Keywords about numbers and strings."""

from __future__ import annotations

from . import patterns
from .branch import Clause, cannot, counted, more, only
from .use import Negative, Positive, Use, impossible

_OPPOSITE = {">=": "<", ">": "<=", "<=": ">", "<": ">="}


def bounds(operator: str, flag: str = "") -> tuple[Positive, Negative]:
    """Return the row of a bound; ``flag`` is the draft 4 keyword that makes it exclusive."""

    def real(use: Use) -> str:
        return operator[0] if use.place.schema.get(flag) is True else operator

    def positive(use: Use) -> list[Clause]:
        if isinstance(use.value, bool):
            return []
        return [[(more("bounds", (real(use), use.value)),)]]

    def negative(use: Use) -> Clause:
        if isinstance(use.value, bool):
            return []
        return [(only("number"), more("bounds", (_OPPOSITE[real(use)], use.value)))]

    return positive, negative


def counts(kind: str, name: str, *, least: bool) -> tuple[Positive, Negative]:
    """Return the row of a limit on a count."""

    def positive(use: Use) -> list[Clause]:
        count = int(use.value)
        return [[(counted(name, count, None) if least else counted(name, 0, count),)]]

    def negative(use: Use) -> Clause:
        count = int(use.value)
        if least:
            return [(only(kind), counted(name, 0, count - 1))] if count else []
        return [(only(kind), counted(name, count + 1, None))]

    return positive, negative


def pattern(use: Use) -> list[Clause]:
    problem = patterns.problem(use.value)
    if problem:
        return [[(cannot("string", use.problem(f"{use.value[:80]!r} cannot be used: {problem}")),)]]
    return [[(more("patterns", use.value),)]]


def format(use: Use) -> list[Clause]:
    if not use.assert_formats:
        return []
    if use.value in patterns.FORMATS:
        return [[(more("formats", use.value),)]]
    if use.value in patterns.UNENFORCED_FORMATS:
        return [[(cannot("string", use.problem(f"{use.value!r} cannot be enforced")),)]]
    return []


def not_format(use: Use) -> Clause:
    if not use.assert_formats:
        return []
    return impossible("string")(use)
