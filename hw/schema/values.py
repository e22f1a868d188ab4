"""Values of JSON: equality, and spelling that a grammar can hold to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

EXACT = 1 << 53
"""Integers up to this are floating-point numbers without loss."""


def same(one: Any, other: Any) -> bool:
    """Return True for equal values: 1 and 1.0 are equal, 1 and true are not."""
    return bool(comparable(one) == comparable(other))


def distinct(values: Iterable[Any]) -> list[Any]:
    """Return the values without repetitions, in their order."""
    return list({comparable(value): value for value in reversed(list(values))}.values())[::-1]


def comparable(value: Any) -> Any:
    """Return something hashable that is equal for equal values."""
    if isinstance(value, bool) or value is None:
        return ("literal", value)
    if isinstance(value, list):
        return ("array", tuple(map(comparable, value)))
    if isinstance(value, dict):
        return ("object", frozenset((name, comparable(each)) for name, each in value.items()))
    return value


def kind(value: Any) -> str:
    """Return a value's type, as in branch.ALL."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    named = {float: "fraction", str: "string", list: "array", dict: "object"}
    return named.get(type(value), "null")


def inexact(value: Any) -> Any | None:
    """Return a number in a value that a grammar would round; None if there is none."""
    if isinstance(value, list):
        return next((bad for each in value if (bad := inexact(each)) is not None), None)
    if isinstance(value, dict):
        return inexact(list(value.values()))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and abs(value) > EXACT and _as_written(value) is None else None


def _as_written(value: float) -> float | None:
    """Return a large number if it is a floating-point number without loss and within 64 bits."""
    return value if abs(value) < 1 << 63 and int(float(value)) == value else None


def common_multiple(steps: Iterable[float]) -> float | None:
    """Return the least common multiple; None if llguidance cannot count in it."""
    made = Fraction(0)
    for step in steps:
        each = Fraction(str(abs(step)))
        made = each if not made else Fraction(
            math.lcm(made.numerator * each.denominator, each.numerator * made.denominator),
            made.denominator * each.denominator)  # fmt: skip
    step = float(made)
    return int(made) if made.denominator == 1 and made < 1 << 31 else _counted(step, made)


def _counted(step: float, exact: Fraction) -> float | None:
    """Return the step if llguidance can count in it: it shifts the point until none is left."""
    shifted, digits = step, 0
    while shifted % 1 and shifted < 1 << 31:
        shifted, digits = shifted * 10, digits + 1
    return step if shifted < 1 << 31 and exact * 10**digits == shifted else None
