"""JSON schema → GBNF, by llama-cpp-python's converter, with its sharp edges covered.

Bounds of whole numbers, which the converter leaves out, and texts that it spells wrong (names and
values with quotes, escapes or characters beyond ASCII) are put into the grammar here. Never fetches
anything: a ``$ref`` must point into the schema itself.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import re
from typing import Any

from .engine import InvalidInput

_MOST = 10**19
"""The greatest whole number that a grammar with bounds lets through."""
_MOST_OPTIONAL, _MOST_REPEATS = 1000, 10_000
"""Of what may be repeated llama.cpp takes in so many that need not be there, and we so many that
must. A greater limit on the former is left out: no reply is likely to come to it."""
_CHOOSES = ("enum", "const", "anyOf", "oneOf", "allOf", "$ref")
"""Words that say more of a number than its bounds; the converter looks at one thing only."""
_NAMED = ("properties", "$defs", "definitions")
"""Words whose value is schemas by name."""
_PLAIN = re.compile(r"[ !#-\[\]-~]+")
"""Texts that the converter spells right."""
_STAND_IN = "aios-stands-in"
_MOST_NODES = 5000
_MOST_DEPTH = 40
_CHAR = r'char ::= [^"\\] | "\\" (["\\/bfnrt] | "u"' + " [0-9a-fA-F]" * 4 + ")"
"""The converter's rule for a character of a string. It lets through line ends and other control
characters, and halves of surrogate pairs: none of them may stand in JSON."""
_CHAR_OF_JSON = (
    r'char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" char-code--)'
    "\nchar-code-- ::= (char-first-- char-hex-- | [dD] [0-7]) char-hex-- char-hex--"
    "\nchar-hex-- ::= [0-9a-fA-F]\nchar-first-- ::= [0-9abcefABCEF]"
)


def schema_to_gbnf(schema: str) -> str:
    """The grammar of all JSON texts that the schema allows. Raises InvalidInput."""
    try:
        parsed = json.loads(schema, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the JSON schema is no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidInput(f"a JSON schema is an object, not {type(parsed).__name__}")
    _check(parsed)
    stands = _StandIns()
    bounded = json.dumps(stands.schema(parsed))
    converter: Any = importlib.import_module("llama_cpp.llama_grammar")
    try:
        grammar = str(converter.json_schema_to_gbnf(bounded))
    except Exception as error:  # third-party code on foreign input: it raises whatever it meets
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"the JSON schema cannot be used: {reason}") from None
    return stands.replaced(grammar).replace(_CHAR, _CHAR_OF_JSON)


class _StandIns:
    """Plain texts that go through the converter in place of what it cannot do."""

    def __init__(self) -> None:
        self._ranges: dict[str, str] = {}
        """Stand-in → the rule for its whole numbers."""
        self._texts: dict[str, str] = {}
        """Text → its stand-in."""

    def schema(self, node: Any) -> Any:
        """The schema with stand-ins. Raises InvalidInput."""
        if isinstance(node, list):
            return [self.schema(each) for each in node]
        if not isinstance(node, dict):
            return node
        low, high = bounds(node)
        plain = node.get("type") == "integer" and not any(word in node for word in _CHOOSES)
        if plain and (low, high) != (None, None):
            return {"const": self._range(low, high)}
        return {key: self._word(key, value) for key, value in node.items()
                if not _beyond(key, value)}  # fmt: skip

    def _word(self, key: str, value: Any) -> Any:
        """The value of one of a schema's words."""
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
        least, most = max(low, -_MOST) if low is not None else -_MOST, high
        most = _MOST if most is None else min(most, _MOST)
        if least > most:
            raise InvalidInput(f"no whole number is between {low} and {high}")
        stand_in = f"{_STAND_IN}-number-{len(self._ranges)}-"
        self._ranges[stand_in] = _whole(least, most)
        return stand_in

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
        return self._texts.setdefault(text, f"{_STAND_IN}-text-{len(self._texts)}-")

    def replaced(self, grammar: str) -> str:
        """The grammar with what they stand for."""
        for stand_in, rule in self._ranges.items():
            grammar = grammar.replace(rf'"\"{stand_in}\""', f"({rule})")
        for text, stand_in in self._texts.items():
            spelled = json.dumps(text, ensure_ascii=False)[1:-1]
            escaped = spelled.replace("\\", "\\\\").replace('"', '\\"')
            grammar = grammar.replace(rf"\"{stand_in}\"", rf"\"{escaped}\"")
        return grammar


def _beyond(key: str, value: Any) -> bool:
    """A bound on repetitions that is left out, since no grammar holds so many. Raises InvalidInput
    for one that cannot be."""
    if not isinstance(value, int):
        return False
    if key in ("minItems", "minLength") and value > _MOST_REPEATS:
        raise InvalidInput(f"{key} is {value:,}; the limit is {_MOST_REPEATS:,}")
    return key in ("maxItems", "maxLength") and value > _MOST_OPTIONAL


def bounds(schema: dict[str, Any]) -> tuple[int | None, int | None]:
    """The least and the greatest whole number that a schema allows."""
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


def _whole(low: int, high: int) -> str:
    """A rule for the whole numbers from one to another."""
    rules = []
    if low < 0:
        rules.append(f'"-" ({_whole(max(1, -high), -low)})')
        low = 0
    while low <= high:  # one number of digits after the other
        most = min(high, 10 ** len(str(low)) - 1)
        rules.append(_digits(str(low), str(most)))
        low = most + 1
    return " | ".join(rules)


def _digits(low: str, high: str) -> str:
    """Numbers of as many digits, from one to another."""
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


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _check(schema: dict[str, Any]) -> None:
    stack: list[tuple[Any, int]] = [(schema, 0)]
    nodes = 0
    while stack:
        node, depth = stack.pop()
        nodes += 1
        if depth > _MOST_DEPTH or nodes > _MOST_NODES:
            raise InvalidInput(
                f"the JSON schema is too large; limits: {_MOST_NODES} nodes, depth {_MOST_DEPTH}"
            )
        if isinstance(node, dict):
            ref = node.get("$ref")
            if isinstance(ref, str) and not ref.startswith("#/"):
                raise InvalidInput(f"$ref {ref!r} must point into the schema itself (#/…)")
            stack += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            stack += [(value, depth + 1) for value in node]
