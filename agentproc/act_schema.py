"""What the model may write in a turn of ``aios.act``: a JSON schema in which everything ends.

A tool's schema is turned into one that the grammar can hold a model to, and that allows nothing
which the tool's does not: references are followed, strings, lists and nesting have limits. What a
grammar cannot express is left out where it is optional, and refused where it is not; so is
``pattern``. Of ``oneOf`` it only sees that one fits, not that no other does; the tool's own check,
which every call goes through, does. ``longest`` says how many tokens any text of a schema can take.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.tool import ToolSpec

from .reference import target

Schema = dict[str, Any]


class _CannotError(Exception):
    """A part of a schema that a grammar cannot express."""


MOST_ITEMS = 8
MOST_DEPTH = 6
_FORMATS = ("date", "time", "date-time", "uuid")
_MOST_VALUES = 100
"""So many numbers are listed where a list is all that can be."""
_PLAIN = r"[ !#-\[\]-~]"
"""Characters that are one byte each and need no escape in JSON."""
_ANY = ("string", "number", "boolean", "null")
_PYTHON: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "array": list,
                           "object": dict, "null": type(None)}  # fmt: skip
_REFUSED = (
    "pattern", "not", "if", "contains", "propertyNames", "patternProperties", "prefixItems",
    "dependentRequired", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
_NOTES = ("title", "description", "default", "examples", "deprecated", "$comment", "$defs")
_WORDS_OF = {
    "object": ("properties", "required", "minProperties"),
    "array": ("items", "minItems", "uniqueItems"),
    "string": ("minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_NUMBER_CHARS = 56
_MOST_PARTS = 20_000
"""Of all schemas of a turn, each reference counted with all that it leads to."""


def turn(specs: Sequence[ToolSpec], calls: int, chars: int, plain: bool, last: bool) -> Schema:
    """A turn: up to so many calls, or an answer; only an answer when it is the ``last``."""
    limits = _Limits(chars, plain)
    answer = _object({"answer": limits.string({})})
    if last or not specs:
        return answer
    each = [
        _object({"tool": {"const": spec.name}, "arguments": limits.arguments(spec)})
        for spec in specs
    ]
    listed = {"type": "array", "items": {"anyOf": each}, "minItems": 1, "maxItems": calls}
    return {"anyOf": [_object({"calls": listed}), answer]}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False}  # fmt: skip


class _Limits:
    """How long strings may be, and of which characters."""

    def __init__(self, chars: int, plain: bool) -> None:
        self._chars, self._plain = chars, plain
        self._left = _MOST_PARTS

    def arguments(self, spec: ToolSpec) -> Schema:
        """A tool's parameters. Raises InvalidArgument for what a grammar cannot hold a model to."""
        root = json.loads(spec.parameters)
        try:
            return self._bounded({"type": "object", **root}, root, 0)
        except _CannotError as error:
            raise InvalidArgument(
                f"the model cannot be held to the schema of {spec.name}: {error}",
                "make that parameter optional or simpler, or leave the tool out",
            ) from None

    def string(self, schema: Mapping[str, Any]) -> Schema:
        """A string with an end."""
        most = min(self._chars, _whole(schema.get("maxLength"), self._chars))
        least = _whole(schema.get("minLength"), 0)
        if least > most:
            raise _CannotError(f"minLength {least} is more than {most}")
        if self._plain:
            return {"type": "string", "pattern": f"^{_PLAIN}{{{least},{most}}}$"}
        return {"type": "string", "minLength": least, "maxLength": most}

    def _bounded(self, schema: Any, root: Schema, depth: int) -> Schema:
        self._left -= 1
        if self._left < 0:
            raise _CannotError(f"it has more than {_MOST_PARTS} parts, references followed")
        if schema is False or depth > 2 * MOST_DEPTH:
            raise _CannotError("nothing fits" if schema is False else "it is nested without an end")
        schema = _followed(schema if isinstance(schema, dict) else {}, root)
        refused = [word for word in _REFUSED if word in schema]
        if refused:
            raise _CannotError(f"{refused[0]} {json.dumps(schema[refused[0]])[:80]}")
        for word in ("anyOf", "oneOf"):
            if isinstance(schema.get(word), list):
                rest = {key: value for key, value in schema.items() if key != word}
                return self._any([_merged(rest, each, root) for each in schema[word]], root, depth)
        if "const" in schema or "enum" in schema:
            return _listed(schema)
        kinds = schema.get("type") or _guessed(schema)
        if isinstance(kinds, list):
            return self._any([{**schema, "type": kind} for kind in kinds], root, depth)
        return self._typed(kinds, schema, root, depth)

    def _any(self, choices: Sequence[Schema], root: Schema, depth: int) -> Schema:
        """Those of the choices that can be expressed. Raises when none can."""
        made, error = [], _CannotError("it has no choices")
        for each in choices:
            try:
                made.append(self._bounded(each, root, depth + 1))
            except _CannotError as reason:
                error = reason
        if not made:
            raise error
        return {"anyOf": made}

    def _typed(self, kind: str, schema: Schema, root: Schema, depth: int) -> Schema:
        match kind:
            case "object":
                return self._object(schema, root, depth)
            case "array":
                return self._array(schema, root, depth)
            case "string" if schema.get("format") in _FORMATS:
                return {"type": "string", "format": schema["format"]}
            case "string":
                return self.string(schema)
            case "integer" | "number":
                return _number(kind, schema)
            case "boolean" | "null":
                return {"type": kind}
        raise _CannotError(f"type {kind!r}")

    def _object(self, schema: Schema, root: Schema, depth: int) -> Schema:
        required = [name for name in schema.get("required", []) if isinstance(name, str)]
        declared = schema.get("properties")
        declared = dict(declared) if isinstance(declared, dict) else {}
        for name in required:
            declared.setdefault(name, schema.get("additionalProperties", {}))
        kept: Schema = {}
        for name, each in declared.items():
            try:
                if not _spelled(name):
                    raise _CannotError("its name is no valid Unicode")
                if name in required or depth < MOST_DEPTH:
                    kept[name] = self._bounded(each, root, depth + 1)
            except _CannotError as error:
                if name in required:
                    raise _CannotError(f"{name}: {error}") from None
        if schema.get("maxProperties", len(kept)) < len(kept):
            kept = {name: kept[name] for name in kept if name in required}
        most, least = schema.get("maxProperties", len(kept)), schema.get("minProperties", 0)
        if len(kept) > most or least > len(kept):
            raise _CannotError("minProperties or maxProperties")
        if least > len(required):
            required = list(kept)
        return {"type": "object", "properties": kept, "additionalProperties": False,
                "required": required}  # fmt: skip

    def _array(self, schema: Schema, root: Schema, depth: int) -> Schema:
        most = min(MOST_ITEMS, _whole(schema.get("maxItems"), MOST_ITEMS))
        least = _whole(schema.get("minItems"), 0)
        if schema.get("uniqueItems") is True:
            most = min(most, 1)
        if least > most:
            raise _CannotError(f"a list of {least} items, which is more than {most}")
        try:
            if depth >= MOST_DEPTH or most == 0:
                raise _CannotError("it is nested without an end")
            items = self._bounded(schema.get("items", {}), root, depth + 1)
        except _CannotError:
            if least:
                raise
            return {"enum": [[]]}
        return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _listed(schema: Schema) -> Schema:
    """Those of the values that have the type."""
    values = [schema["const"]] if "const" in schema else schema["enum"]
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    fit = [v for v in values if kinds is None or any(_is(kind, v) for kind in kinds)]
    fit = [value for value in fit if _spelled(value)]
    if not fit:
        raise _CannotError("none of its values has its type and is valid Unicode")
    return {"enum": fit}


def _spelled(value: Any) -> bool:
    """Whether it can be written: JSON may name halves of surrogate pairs, which are no text."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and value.is_integer() and kind == "integer":
        return True
    return isinstance(value, _PYTHON.get(kind, ()))


def _number(kind: str, schema: Schema) -> Schema:
    """Bounds and multiples are held to by a list of values, or by whole numbers only."""
    words = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    limits = {word: schema[word] for word in words if word in schema}
    if any(not _is("number", value) or not math.isfinite(value) for value in limits.values()):
        raise _CannotError("a bound that is no number")
    low: Any = max((v for w, v in limits.items() if "inimum" in w), default=None)
    high: Any = min((v for w, v in limits.items() if "aximum" in w), default=None)
    step = schema.get("multipleOf")
    if step is not None:
        values = _multiples(step, low, high)
    elif kind == "integer" or not limits:
        return {"type": kind, **limits}
    elif low is None or high is None or high - low > _MOST_VALUES:
        return {"type": "integer", **limits}
    else:
        values = [round(low + (high - low) * n / _MOST_VALUES, 6) for n in range(_MOST_VALUES + 1)]
    fit = [v for v in values if _within(v, limits)]
    if not fit:
        raise _CannotError("no number fits its bounds")
    return {"enum": fit}


def _multiples(step: Any, low: Any, high: Any) -> list[Any]:
    if not _is("integer", step) or step <= 0:
        raise _CannotError(f"multipleOf {json.dumps(step)}")
    first = 0
    if low is not None:
        first = math.ceil(low / step)
    elif high is not None:
        first = math.floor(high / step) - _MOST_VALUES
    return [(first + n) * int(step) for n in range(_MOST_VALUES + 1)]


def _within(value: float, limits: Schema) -> bool:
    return (
        value >= limits.get("minimum", value) and value <= limits.get("maximum", value)
        and ("exclusiveMinimum" not in limits or value > limits["exclusiveMinimum"])
        and ("exclusiveMaximum" not in limits or value < limits["exclusiveMaximum"])
    )  # fmt: skip


def _followed(schema: Schema, root: Schema) -> Schema:
    """What a local reference leads to; all parts of ``allOf`` in one."""
    for _ in range(MOST_DEPTH):
        if "$ref" not in schema:
            break
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = _joined(rest, _at(schema["$ref"], root))
    if "$ref" in schema:
        raise _CannotError("its references go in a circle")
    if isinstance(schema.get("allOf"), list):
        merged: Schema = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            merged = _merged(merged, part, root)
        return _followed(merged, root) if "allOf" in merged or "$ref" in merged else merged
    return schema


def _at(reference: Any, root: Schema) -> Schema:
    try:
        found = target(reference, root)
    except ValueError as error:
        raise _CannotError(str(error)) from None
    if not isinstance(found, dict):
        raise _CannotError(f"$ref {reference[:80]!r} leads to no schema")
    return found


def _merged(schema: Schema, part: Any, root: Schema) -> Any:
    """Both at once. Raises when they speak of the same thing in two ways."""
    if not isinstance(part, dict):
        return part if part is False else schema
    return _joined(schema, _followed(part, root))


def _joined(schema: Schema, part: Schema) -> Schema:
    made = {**part, **schema}
    for key in schema.keys() & part.keys():
        mine, other = schema[key], part[key]
        if key == "properties":
            made[key] = {**other, **mine, **{k: {"allOf": [mine[k], other[k]]}
                                             for k in mine.keys() & other.keys()}}  # fmt: skip
        elif key in ("required", "allOf"):
            made[key] = [*other, *(each for each in mine if each not in other)]
        elif mine != other and key not in _NOTES:
            raise _CannotError(f"{key} is given twice")
    return made


def _guessed(schema: Schema) -> str | list[str]:
    """The types that its keywords speak of."""
    for kind, words in _WORDS_OF.items():
        if any(word in schema for word in words):
            return kind
    return list(_ANY)


def _whole(value: Any, otherwise: int) -> int:
    return int(value) if _is("integer", value) and value >= 0 else otherwise


def longest(schema: Schema) -> int:
    """Bytes of the longest text of a schema made here, and so the most tokens it can take.

    A string's character may be an escape of six bytes, unless it is a plain one. Punctuation may
    have a space after it.
    """
    if "anyOf" in schema:
        return max(longest(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return max(len(json.dumps(value)) for value in values) + 2
    match schema["type"]:
        case "object":
            return 4 + sum(
                len(json.dumps(name)) + 6 + longest(each)
                for name, each in schema["properties"].items()
            )
        case "array":
            return 4 + int(schema["maxItems"]) * (2 + longest(schema["items"]))
        case "string" if "maxLength" in schema:
            return 4 + 6 * int(schema["maxLength"])
        case "string" if "pattern" in schema:
            return 4 + int(schema["pattern"].rpartition(",")[2].rstrip("}$"))
        case _:
            return _NUMBER_CHARS
