"""JSON schema to GBNF, with llama-cpp-python's converter and corrections of its output.

The converter omits the bounds of integers and misspells strings with quotes, escapes or non-ASCII
characters. It gets placeholders for both; the grammar gets the right rules in their place. Nothing
is ever fetched: a ``$ref`` must point into the schema itself.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import re
from typing import Any

from .engine import InvalidInput

_MAX_INTEGER = 10**19
"""Greatest integer that a grammar with bounds allows."""
_MAX_OPTIONAL = 1000
"""llama.cpp's limit on optional repetitions; a greater maximum in a schema is omitted."""
_MAX_REQUIRED = 10_000
"""Limit on required repetitions."""
_CHOOSES = ("enum", "const", "anyOf", "oneOf", "allOf", "$ref")
"""Keywords that restrict a number beyond its bounds; the converter handles only one keyword."""
_NAMED = ("properties", "$defs", "definitions")
"""Keywords whose value maps names to schemas."""
_PLAIN = re.compile(r"[ !#-\[\]-~]+")
"""Strings that the converter spells correctly."""
_PLACEHOLDER = "aios-stands-in"
_MAX_NODES, _MAX_DEPTH = 5000, 40
_CHAR = r'char ::= [^"\\] | "\\" (["\\/bfnrt] | "u"' + " [0-9a-fA-F]" * 4 + ")"
"""The converter's rule for a character of a string. It allows control characters and unpaired
surrogates, which JSON forbids."""
_CHAR_OF_JSON = (
    r'char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" char-code--)'
    "\nchar-code-- ::= (char-first-- char-hex-- | [dD] [0-7]) char-hex-- char-hex--"
    "\nchar-hex-- ::= [0-9a-fA-F]\nchar-first-- ::= [0-9abcefABCEF]"
)


def schema_to_gbnf(schema: str) -> str:
    """Return the grammar of all JSON texts that match the schema. Raises InvalidInput."""
    try:
        parsed = json.loads(schema, parse_constant=_reject_number)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the JSON schema is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidInput(f"a JSON schema is an object, not {type(parsed).__name__}")
    _check(parsed)
    placeholders = _Placeholders()
    plain = json.dumps(placeholders.schema(parsed))
    converter: Any = importlib.import_module("llama_cpp.llama_grammar")
    try:
        grammar = str(converter.json_schema_to_gbnf(plain))
    except Exception as error:  # third-party code on foreign input may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"the JSON schema cannot be used: {reason}") from None
    return placeholders.replaced(grammar).replace(_CHAR, _CHAR_OF_JSON)


class _Placeholders:
    """Plain strings that the converter gets in place of what it cannot convert."""

    def __init__(self) -> None:
        self._ranges: dict[str, str] = {}
        """Placeholder → rule for the integers of a range."""
        self._texts: dict[str, str] = {}
        """String → its placeholder."""

    def schema(self, node: Any) -> Any:
        """Return the schema with placeholders. Raises InvalidInput."""
        if isinstance(node, list):
            return [self.schema(each) for each in node]
        if not isinstance(node, dict):
            return node
        low, high = bounds(node)
        plain = node.get("type") == "integer" and not any(word in node for word in _CHOOSES)
        if plain and (low, high) != (None, None):
            return {"const": self._range(low, high)}
        return {key: self._keyword(key, value) for key, value in node.items()
                if not _is_omitted(key, value)}  # fmt: skip

    def _keyword(self, key: str, value: Any) -> Any:
        """Return the value of a keyword with placeholders."""
        if key in ("const", "enum", "required"):
            return self._value(value)
        if key == "$ref" and isinstance(value, str):
            before = ["", *value.split("/")]
            return "/".join(
                self._text(part) if word == "properties" else part
                for word, part in itertools.pairwise(before)
            )
        if key in _NAMED and isinstance(value, dict):
            name = self._text if key == "properties" else str
            return {name(each): self.schema(schema) for each, schema in value.items()}
        return self.schema(value)

    def _range(self, low: int | None, high: int | None) -> str:
        least, most = max(low, -_MAX_INTEGER) if low is not None else -_MAX_INTEGER, high
        most = _MAX_INTEGER if most is None else min(most, _MAX_INTEGER)
        if least > most:
            raise InvalidInput(f"no integer is between {low} and {high}")
        placeholder = f"{_PLACEHOLDER}-number-{len(self._ranges)}-"
        self._ranges[placeholder] = _integers(least, most)
        return placeholder

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self._value(each) for each in value]
        if isinstance(value, dict):
            return {self._text(key): self._value(each) for key, each in value.items()}
        return value

    def _text(self, text: str) -> str:
        if _PLAIN.fullmatch(text):
            return text
        return self._texts.setdefault(text, f"{_PLACEHOLDER}-text-{len(self._texts)}-")

    def replaced(self, grammar: str) -> str:
        """Return the grammar with the rules and strings in place of their placeholders."""
        for placeholder, rule in self._ranges.items():
            grammar = grammar.replace(rf'"\"{placeholder}\""', f"({rule})")
        for text, placeholder in self._texts.items():
            spelled = json.dumps(text, ensure_ascii=False)[1:-1]
            escaped = spelled.replace("\\", "\\\\").replace('"', '\\"')
            grammar = grammar.replace(rf"\"{placeholder}\"", rf"\"{escaped}\"")
        return grammar


def _is_omitted(key: str, value: Any) -> bool:
    """Return True for a maximum over llama.cpp's limit. Raises InvalidInput for such a minimum."""
    if not isinstance(value, int):
        return False
    if key in ("minItems", "minLength") and value > _MAX_REQUIRED:
        raise InvalidInput(f"{key} is {value:,}; the limit is {_MAX_REQUIRED:,}")
    return key in ("maxItems", "maxLength") and value > _MAX_OPTIONAL


def bounds(schema: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the least and the greatest integer that a schema allows; None without a bound."""
    lows: list[int] = []
    highs: list[int] = []
    for word, found, step in (("minimum", lows, 0), ("exclusiveMinimum", lows, 1),
                              ("maximum", highs, 0), ("exclusiveMaximum", highs, -1)):  # fmt: skip
        value = schema.get(word)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            up = word.endswith("inimum")
            whole = math.ceil(value) if up else math.floor(value)
            found.append(whole + step * (whole == value))
    return max(lows, default=None), min(highs, default=None)


def _integers(low: int, high: int) -> str:
    """Return a rule for the integers from ``low`` to ``high``."""
    rules = []
    if low < 0:
        rules.append(f'"-" ({_integers(max(1, -high), -low)})')
        low = 0
    while low <= high:  # one count of digits at a time
        most = min(high, 10 ** len(str(low)) - 1)
        rules.append(_digits(str(low), str(most)))
        low = most + 1
    return " | ".join(rules)


def _digits(low: str, high: str) -> str:
    """Return a rule for the numbers from ``low`` to ``high``, which have equally many digits."""
    if len(low) == 1:
        return f"[{low}-{high}]"
    first, last, rest = int(low[0]), int(high[0]), len(low) - 1
    if first == last:
        return f'"{first}" ({_digits(low[1:], high[1:])})'
    rules = []
    if low[1:].strip("0"):
        rules.append(f'"{first}" ({_digits(low[1:], "9" * rest)})')
        first += 1
    if high[1:].strip("9"):
        rules.append(f'"{last}" ({_digits("0" * rest, high[1:])})')
        last -= 1
    if first <= last:
        rules.append(f"[{first}-{last}]" + " [0-9]" * rest)
    return " | ".join(rules)


def _reject_number(text: str) -> None:
    raise ValueError(f"{text} is not a number in JSON")


def _check(schema: dict[str, Any]) -> None:
    """Reject a schema that is too large or has a foreign ``$ref``. Raises InvalidInput."""
    stack: list[tuple[Any, int]] = [(schema, 0)]
    nodes = 0
    while stack:
        node, depth = stack.pop()
        nodes += 1
        if depth > _MAX_DEPTH or nodes > _MAX_NODES:
            raise InvalidInput(
                f"the JSON schema is too large; limits: {_MAX_NODES} nodes, depth {_MAX_DEPTH}"
            )
        if isinstance(node, dict):
            ref = node.get("$ref")
            if isinstance(ref, str) and not ref.startswith("#/"):
                raise InvalidInput(f"$ref {ref!r} must point into the schema itself (#/…)")
            stack += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            stack += [(value, depth + 1) for value in node]
