"""The JSON schema of a turn of ``aios.act``: the calls or the answer that the model may write.

A tool's schema is converted to one that a grammar can enforce, that allows nothing the tool's
schema forbids, and whose texts have an end: references are resolved; strings, lists and nesting
have limits. What a grammar cannot express is dropped if it is optional and refused if not; so is
``pattern``. Of ``oneOf`` the grammar checks only that one choice fits; the tool itself checks that
no other does. ``max_bytes`` bounds the length of a turn.
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


class _UnsupportedError(Exception):
    """A part of a schema that a grammar cannot express."""


MAX_ITEMS = 8
MAX_DEPTH = 6
_FORMATS = ("date", "time", "date-time", "uuid")
_MAX_VALUES = 100
"""Limit on the numbers listed where only a list can express the bounds."""
_PLAIN = r"[ !#-\[\]-~]"
"""A character that is one byte and needs no escape in JSON."""
_VISIBLE = r"[!#-\[\]-~]"
_ANY = ("string", "number", "boolean", "null")
_PYTHON: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "array": list,
                           "object": dict, "null": type(None)}  # fmt: skip
_UNSUPPORTED = (
    "pattern", "not", "if", "contains", "propertyNames", "patternProperties", "prefixItems",
    "dependentRequired", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
_ANNOTATIONS = ("title", "description", "default", "examples", "deprecated", "$comment", "$defs")
_KEYWORDS = {
    "object": ("properties", "required", "minProperties"),
    "array": ("items", "minItems", "uniqueItems"),
    "string": ("minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_NUMBER_BYTES = 56
_MAX_PARTS = 20_000
"""Limit on the parts of all schemas of a turn, references followed."""


def turn(specs: Sequence[ToolSpec], calls: int, chars: int, plain: bool, last: bool) -> Schema:
    """Return the schema of a turn: at most ``calls`` calls, or an answer; only an answer if it is
    the ``last``. Raises InvalidArgument for a tool whose schema a grammar cannot express."""
    limits = _Bounder(chars, plain)
    answer = _object({"answer": limits.words()})
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


class _Bounder:
    """Converts schemas. Strings have at most ``chars`` characters, with ``plain`` of one byte
    each."""

    def __init__(self, chars: int, plain: bool) -> None:
        self._chars, self._plain = chars, plain
        self._left = _MAX_PARTS

    def arguments(self, spec: ToolSpec) -> Schema:
        """Return the schema of a tool's arguments. Raises InvalidArgument."""
        root = json.loads(spec.parameters)
        try:
            return self._bound({"type": "object", **root}, root, 0)
        except _UnsupportedError as error:
            raise InvalidArgument(
                f"a grammar cannot express the schema of {spec.name}: {error}",
                "make that parameter optional or simpler, or leave the tool out",
            ) from None

    def string(self, schema: Mapping[str, Any]) -> Schema:
        """Return a bounded string."""
        most = min(self._chars, _count(schema.get("maxLength"), self._chars))
        least = _count(schema.get("minLength"), 0)
        if least > most:
            raise _UnsupportedError(f"minLength {least} is more than {most}")
        if self._plain:
            return {"type": "string", "pattern": f"^{_PLAIN}{{{least},{most}}}$"}
        return {"type": "string", "minLength": least, "maxLength": most}

    def words(self) -> Schema:
        """Return a bounded string that says something: it does not begin with white space."""
        if self._plain:
            return {"type": "string", "pattern": f"^{_VISIBLE}{_PLAIN}{{0,{self._chars - 1}}}$"}
        return {"type": "string", "pattern": r"^\S", "maxLength": self._chars}

    def _bound(self, schema: Any, root: Schema, depth: int) -> Schema:
        self._left -= 1
        if self._left < 0:
            raise _UnsupportedError(f"it has more than {_MAX_PARTS} parts, references followed")
        if schema is False:
            raise _UnsupportedError("it allows no value")
        if depth > 2 * MAX_DEPTH:
            raise _UnsupportedError("it is nested too deeply")
        schema = _resolved(schema if isinstance(schema, dict) else {}, root)
        refused = [word for word in _UNSUPPORTED if word in schema]
        if refused:
            raise _UnsupportedError(f"{refused[0]} {json.dumps(schema[refused[0]])[:80]}")
        for word in ("anyOf", "oneOf"):
            if isinstance(schema.get(word), list):
                rest = {key: value for key, value in schema.items() if key != word}
                return self._any([_merged(rest, each, root) for each in schema[word]], root, depth)
        if "const" in schema or "enum" in schema:
            return _enum(schema)
        kinds = schema.get("type") or _implied_types(schema)
        if isinstance(kinds, list):
            return self._any([{**schema, "type": kind} for kind in kinds], root, depth)
        return self._typed(kinds, schema, root, depth)

    def _any(self, choices: Sequence[Schema], root: Schema, depth: int) -> Schema:
        """Return the choices that can be expressed. Raises if there is none."""
        made, error = [], _UnsupportedError("it has no choices")
        for each in choices:
            try:
                made.append(self._bound(each, root, depth + 1))
            except _UnsupportedError as reason:
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
        raise _UnsupportedError(f"type {kind!r}")

    def _object(self, schema: Schema, root: Schema, depth: int) -> Schema:
        required = [name for name in schema.get("required", []) if isinstance(name, str)]
        declared = schema.get("properties")
        declared = dict(declared) if isinstance(declared, dict) else {}
        for name in required:
            declared.setdefault(name, schema.get("additionalProperties", {}))
        kept: Schema = {}
        for name, each in declared.items():
            try:
                if not _is_unicode(name):
                    raise _UnsupportedError("its name is not valid Unicode")
                if name in required or depth < MAX_DEPTH:
                    kept[name] = self._bound(each, root, depth + 1)
            except _UnsupportedError as error:
                if name in required:
                    raise _UnsupportedError(f"{name}: {error}") from None
        if schema.get("maxProperties", len(kept)) < len(kept):
            kept = {name: kept[name] for name in kept if name in required}
        most, least = schema.get("maxProperties", len(kept)), schema.get("minProperties", 0)
        if len(kept) > most or least > len(kept):
            raise _UnsupportedError("minProperties or maxProperties")
        if least > len(required):
            required = list(kept)
        return {"type": "object", "properties": kept, "additionalProperties": False,
                "required": required}  # fmt: skip

    def _array(self, schema: Schema, root: Schema, depth: int) -> Schema:
        most = min(MAX_ITEMS, _count(schema.get("maxItems"), MAX_ITEMS))
        least = _count(schema.get("minItems"), 0)
        if schema.get("uniqueItems") is True:
            most = min(most, 1)
        if least > most:
            raise _UnsupportedError(f"a list of {least} items is longer than {most}")
        try:
            if depth >= MAX_DEPTH or most == 0:
                raise _UnsupportedError("it is nested too deeply")
            items = self._bound(schema.get("items", {}), root, depth + 1)
        except _UnsupportedError:
            if least:
                raise
            return {"enum": [[]]}
        return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _enum(schema: Schema) -> Schema:
    """Return the values that have the type."""
    values = [schema["const"]] if "const" in schema else schema["enum"]
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    fit = [v for v in values if kinds is None or any(_has_type(kind, v) for kind in kinds)]
    fit = [value for value in fit if _is_unicode(value)]
    if not fit:
        raise _UnsupportedError("no value of its enum has its type and is valid Unicode")
    return {"enum": fit}


def _is_unicode(value: Any) -> bool:
    """Return True if a value is valid Unicode: JSON can have halves of surrogate pairs, which are
    not."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_type(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and value.is_integer() and kind == "integer":
        return True
    return isinstance(value, _PYTHON.get(kind, ()))


def _number(kind: str, schema: Schema) -> Schema:
    """Return a number; bounds that a grammar cannot express become a list of values or whole
    numbers."""
    words = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    limits = {word: schema[word] for word in words if word in schema}
    if any(not _has_type("number", value) or not math.isfinite(value) for value in limits.values()):
        raise _UnsupportedError("a bound is not a number")
    low: Any = max((v for w, v in limits.items() if "inimum" in w), default=None)
    high: Any = min((v for w, v in limits.items() if "aximum" in w), default=None)
    step = schema.get("multipleOf")
    if step is not None:
        values = _multiples(step, low, high)
    elif kind == "integer" or not limits:
        return {"type": kind, **limits}
    elif low is None or high is None or high - low > _MAX_VALUES:
        return {"type": "integer", **limits}
    else:
        values = [round(low + (high - low) * n / _MAX_VALUES, 6) for n in range(_MAX_VALUES + 1)]
    fit = [v for v in values if _within(v, limits)]
    if not fit:
        raise _UnsupportedError("no number is within its bounds")
    return {"enum": fit}


def _multiples(step: Any, low: Any, high: Any) -> list[Any]:
    if not _has_type("integer", step) or step <= 0:
        raise _UnsupportedError(f"multipleOf {json.dumps(step)}")
    first = 0
    if low is not None:
        first = math.ceil(low / step)
    elif high is not None:
        first = math.floor(high / step) - _MAX_VALUES
    return [(first + n) * int(step) for n in range(_MAX_VALUES + 1)]


def _within(value: float, limits: Schema) -> bool:
    return (
        value >= limits.get("minimum", value) and value <= limits.get("maximum", value)
        and ("exclusiveMinimum" not in limits or value > limits["exclusiveMinimum"])
        and ("exclusiveMaximum" not in limits or value < limits["exclusiveMaximum"])
    )  # fmt: skip


def _resolved(schema: Schema, root: Schema) -> Schema:
    """Return a schema with its references resolved and the parts of ``allOf`` joined."""
    for _ in range(MAX_DEPTH):
        if "$ref" not in schema:
            break
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = _joined(rest, _at(schema["$ref"], root))
    if "$ref" in schema:
        raise _UnsupportedError("its references go in a circle")
    if isinstance(schema.get("allOf"), list):
        merged: Schema = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            merged = _merged(merged, part, root)
        return _resolved(merged, root) if "allOf" in merged or "$ref" in merged else merged
    return schema


def _at(reference: Any, root: Schema) -> Schema:
    try:
        found = target(reference, root)
    except ValueError as error:
        raise _UnsupportedError(str(error)) from None
    if not isinstance(found, dict):
        raise _UnsupportedError(f"$ref {reference[:80]!r} leads to no schema")
    return found


def _merged(schema: Schema, part: Any, root: Schema) -> Any:
    """Return a schema that requires both. Raises if they contradict each other."""
    if not isinstance(part, dict):
        return part if part is False else schema
    return _joined(schema, _resolved(part, root))


def _joined(schema: Schema, part: Schema) -> Schema:
    made = {**part, **schema}
    for key in schema.keys() & part.keys():
        mine, other = schema[key], part[key]
        if key == "properties":
            made[key] = {**other, **mine, **{k: {"allOf": [mine[k], other[k]]}
                                             for k in mine.keys() & other.keys()}}  # fmt: skip
        elif key in ("required", "allOf"):
            made[key] = [*other, *(each for each in mine if each not in other)]
        elif mine != other and key not in _ANNOTATIONS:
            raise _UnsupportedError(f"{key} is given twice")
    return made


def _implied_types(schema: Schema) -> str | list[str]:
    """Return the types that the keywords of a schema apply to."""
    for kind, words in _KEYWORDS.items():
        if any(word in schema for word in words):
            return kind
    return list(_ANY)


def _count(value: Any, otherwise: int) -> int:
    return int(value) if _has_type("integer", value) and value >= 0 else otherwise


def max_bytes(schema: Schema) -> int:
    """Return the size of the longest text of a schema made here, which is also the most tokens it
    takes.

    A character of a string may be an escape of six bytes, unless it is plain. A space may follow
    punctuation.
    """
    if "anyOf" in schema:
        return max(max_bytes(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return max(len(json.dumps(value)) for value in values) + 2
    match schema["type"]:
        case "object":
            return 4 + sum(
                len(json.dumps(name)) + 6 + max_bytes(each)
                for name, each in schema["properties"].items()
            )
        case "array":
            return 4 + int(schema["maxItems"]) * (2 + max_bytes(schema["items"]))
        case "string" if "maxLength" in schema:
            return 4 + 6 * int(schema["maxLength"])
        case "string" if "pattern" in schema:
            return 4 + int(schema["pattern"].rpartition(",")[2].rstrip("}$"))
        case _:
            return _NUMBER_BYTES
