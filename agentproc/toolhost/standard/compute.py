"""Computing: a calculator that evaluates arithmetic and nothing else, and statistics.

An expression is parsed into a tree, and only the nodes listed here are evaluated. The size of
numbers is limited, so that evaluation is fast.
"""

from __future__ import annotations

import ast
import math
import operator
import statistics
from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta

from aios.syscalls.errors import InvalidArgument
from aios.tool import tool

MAX_BITS = 4096
"""Limit on the size of an integer."""
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "min": min, "max": max, "round": round, "sqrt": math.sqrt, "exp": math.exp,
    "log": math.log, "log2": math.log2, "log10": math.log10, "sin": math.sin, "cos": math.cos,
    "tan": math.tan, "asin": math.asin, "acos": math.acos, "atan": math.atan,
    "atan2": math.atan2, "floor": math.floor, "ceil": math.ceil, "hypot": math.hypot,
    "gcd": math.gcd, "lcm": math.lcm, "degrees": math.degrees, "radians": math.radians,
}  # fmt: skip


@tool(effect="read", idempotent=True, timeout=10)
def calculate(expression: Annotated[str, Meta(min_length=1, max_length=1000)]) -> int | float:
    """Calculate an arithmetic expression, for example: (2 + 3) * sqrt(16)

    expression: numbers, + - * / // % **, parentheses, pi, e, and functions like sqrt, sin, log, min
    """
    try:
        number: int | float = _value(
            ast.parse(expression.strip().replace("^", "**"), mode="eval").body
        )
        return number
    except (SyntaxError, RecursionError, MemoryError):
        raise InvalidArgument(f"{expression!r} is not an arithmetic expression") from None
    except (ArithmeticError, ValueError, TypeError) as error:
        raise InvalidArgument(f"{expression!r}: {error}") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _small(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _small(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _small(_FUNCTIONS[name](*(_value(each) for each in args)))
    raise InvalidArgument(
        f"{ast.unparse(node)[:80]!r} is not arithmetic",
        f"use numbers, + - * / // % **, {', '.join([*_CONSTANTS, *_FUNCTIONS])}",
    )


def _power(base: Any, exponent: Any) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and base.bit_length() * abs(exponent) > MAX_BITS:
        raise ArithmeticError("the power is too large")
    result = base**exponent
    if isinstance(result, complex):
        raise ArithmeticError("the result is not a real number")
    return _small(result)


def _small(number: Any) -> Any:
    if isinstance(number, int) and number.bit_length() > MAX_BITS:
        raise ArithmeticError("the number is too large")
    if isinstance(number, float) and not math.isfinite(number):
        raise ArithmeticError("the result is not a finite number")
    return number


@tool(effect="read", idempotent=True, timeout=10)
def describe_numbers(
    numbers: Annotated[list[float], Meta(min_length=1, max_length=100_000)],
) -> dict[str, float]:
    """Count, sum, mean, median, standard deviation, minimum and maximum of some numbers.

    numbers: the numbers
    """
    return {
        "count": len(numbers), "sum": math.fsum(numbers), "mean": statistics.fmean(numbers),
        "median": statistics.median(numbers), "min": min(numbers), "max": max(numbers),
        "stdev": statistics.stdev(numbers) if len(numbers) > 1 else 0.0,
    }  # fmt: skip


TOOLS = (calculate, describe_numbers)
