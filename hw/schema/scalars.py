"""Shapes of scalars: booleans, numbers and strings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from . import patterns, values
from .branch import Branch, Terms
from .shape import Plain, Shape, Values, excludes, limits, unsupported

_LONG = 10**18
"""Integers from here on have as many digits as the greatest of 64 bits."""


def booleans(branch: Branch) -> list[Shape]:
    left = tuple(value for value in (True, False) if not excludes(branch, value))
    return [{"type": "boolean"}] if len(left) == 2 else [Values(left)] if left else []


def numbers(terms: Terms, branch: Branch, *, bounded: bool) -> list[Shape]:
    """Return the numbers of a branch; ``bounded``: integers have at most 18 digits."""
    step = common_step(terms, branch)
    whole = "fraction" not in branch.types
    cuts = sorted(
        value for value in branch.excluded if values.kind(value) in ("integer", "fraction")
    )
    ranges = [(low, high) for low, high in itertools.pairwise([None, *cuts, None])]
    made: list[Shape] = []
    for low, high in ranges:
        limits = list(branch.bounds)
        limits += [] if low is None else [(">", low)]
        limits += [] if high is None else [("<", high)]
        shape = _number(terms, limits, whole)
        if shape is not None and whole and bounded:
            shape = _bounded(shape)
        if shape is None:
            continue
        if "integer" not in branch.types:
            raise unsupported(terms, "not", "cannot exclude the integers from the numbers")
        made.append(shape if step is None else {**shape, "multipleOf": step})
    return made


def common_step(terms: Terms, branch: Branch) -> float | None:
    """Return what numbers are a multiple of. Raises UnsupportedSchema."""
    if not branch.multiples:
        return None
    step = values.common_multiple(branch.multiples)
    if step is None:
        listed = ", ".join(map(str, branch.multiples))
        raise unsupported(terms, "multipleOf", f"{listed} has too many digits")
    return step


def _number(terms: Terms, limits: Sequence[tuple[str, float]], whole: bool) -> Plain | None:
    """Return a number within limits, or None if there is none."""
    low = max(((value, op == ">") for op, value in limits if op[0] == ">"), default=None)
    high = min(((value, op != "<") for op, value in limits if op[0] == "<"), default=None)
    if whole:
        return _integer(terms, low, high)
    shape: Plain = {"type": "number"}
    for limit, name in ((low, "inimum"), (high, "aximum")):
        if limit is not None and values.inexact(limit[0]) is not None and isinstance(limit[0], int):
            raise unsupported(terms, f"m{name}", f"is {limit[0]}, which a grammar would round")
    if low is not None:
        shape["exclusiveMinimum" if low[1] else "minimum"] = low[0]
    if high is not None:
        shape["maximum" if high[1] else "exclusiveMaximum"] = high[0]
    if low is not None and high is not None:
        empty = low[0] > high[0] or (low[0] == high[0] and (low[1] or not high[1]))
        return None if empty else shape
    return shape


def _integer(
    terms: Terms, low: tuple[float, bool] | None, high: tuple[float, bool] | None
) -> Plain | None:
    """Return an integer within limits; of large limits, a number within that is exact."""
    shape: Plain = {"type": "integer"}
    edge = (1 << 63) - 1024
    first = last = None
    if low is not None:
        first = math.floor(low[0]) + 1 if low[1] else math.ceil(low[0])
        if first > edge:
            raise unsupported(terms, "minimum", f"is {first}; the limit is {edge}")
        near = abs(first) <= values.EXACT
        shape["minimum"] = first if near else max(-edge, first + (-first) % 1024)
    if high is not None:
        last = math.floor(high[0]) if high[1] else math.ceil(high[0]) - 1
        if last < -edge:
            raise unsupported(terms, "maximum", f"is {last}; the limit is {-edge}")
        near = abs(last) <= values.EXACT
        shape["maximum"] = last if near else min(edge, last - last % 1024)
    if shape.get("minimum", 0) >= _LONG:  # llguidance wants both ends of such a range
        shape.setdefault("maximum", edge)
    if shape.get("maximum", 0) <= -_LONG:
        shape.setdefault("minimum", -edge)
    return None if first is not None and last is not None and first > last else shape


def _bounded(shape: Plain) -> Plain:
    """Return an integer with both limits, so that no text has digits without end."""
    low = shape.get("minimum", min(1 - _LONG, shape.get("maximum", 0)))
    return {**shape, "minimum": low, "maximum": shape.get("maximum", max(_LONG - 1, low))}


def strings(terms: Terms, branch: Branch) -> list[Shape]:
    least, most = limits(terms, branch.characters, "minLength", "maxLength")
    excluded = [value for value in branch.excluded if isinstance(value, str)]
    regexes = dict.fromkeys([*branch.patterns, *([patterns.none_of(excluded)] if excluded else [])])
    parts: list[Plain] = [{"type": "string", "pattern": regex} for regex in regexes]
    parts += [{"type": "string", "format": name} for name in dict.fromkeys(branch.formats)]
    shape: Plain = parts[0] if len(parts) == 1 else {"type": "string"}
    if len(parts) > 1:
        shape["allOf"] = parts
    if least:
        shape["minLength"] = least
    if most is not None:
        shape["maxLength"] = most
    if most is not None and least > most:
        return []
    if parts and shape.keys() != {"type", "format"}:
        problem = patterns.schema_problem(shape)
        if problem.startswith("Unsatisfiable"):
            return []
        if problem:
            raise unsupported(terms, "pattern", f"cannot be enforced here: {problem}")
    return [shape]


def as_pattern(shape: Shape) -> str | None:
    """Return the pattern of a string's shape, if one pattern says all."""
    if not isinstance(shape, dict):
        return None
    words = shape.keys() - {"type"}
    if words == {"pattern"}:
        return str(shape["pattern"])
    if words <= {"minLength", "maxLength"}:
        return patterns.length(shape.get("minLength", 0), shape.get("maxLength"))
    return None
