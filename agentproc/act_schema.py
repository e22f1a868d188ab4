"""What the model may write in a turn of ``aios.act``: a JSON schema in which everything ends.

A tool's schema is turned into one that the grammar can hold a model to: references are followed,
strings, lists and nesting have limits, what a grammar cannot express is left out (the tool's own
check still sees it). ``longest`` says how many tokens any text of a schema can take.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .syscalls.tool_types import ToolSpec

Schema = dict[str, Any]

MOST_ITEMS = 8
MOST_DEPTH = 6
_FORMATS = ("date", "time", "date-time", "uuid")
_MOST_VALUES = 100
"""Whole numbers in a range no wider than this are listed."""
_PLAIN = r"[ !#-\[\]-~]"
"""Characters that are one byte each and need no escape in JSON."""
_ANY = ("string", "number", "boolean", "null")
_NUMBER_CHARS = 56


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

    def arguments(self, spec: ToolSpec) -> Schema:
        """A tool's parameters."""
        root = json.loads(spec.parameters)
        return self._bounded({"type": "object", "properties": {}, **root}, root, 0)

    def string(self, schema: Mapping[str, Any]) -> Schema:
        """A string with an end."""
        most = min(self._chars, _whole(schema.get("maxLength"), self._chars))
        least = min(most, _whole(schema.get("minLength"), 0))
        if self._plain:
            return {"type": "string", "pattern": f"^{_PLAIN}{{{least},{most}}}$"}
        return {"type": "string", "minLength": least, "maxLength": most}

    def _bounded(self, schema: Any, root: Schema, depth: int) -> Schema:
        if not isinstance(schema, dict):
            schema = {}
        schema = _followed(schema, root)
        for word in ("anyOf", "oneOf"):
            if isinstance(schema.get(word), list) and schema[word]:
                return {"anyOf": [self._bounded(each, root, depth + 1) for each in schema[word]]}
        if "const" in schema:
            return {"const": schema["const"]}
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return {"enum": schema["enum"]}
        kinds = schema.get("type") or _guessed(schema)
        if isinstance(kinds, list):
            return {"anyOf": [self._typed(kind, schema, root, depth) for kind in kinds]}
        return self._typed(kinds, schema, root, depth)

    def _typed(self, kind: str, schema: Schema, root: Schema, depth: int) -> Schema:
        if kind == "object":
            return self._object(schema, root, depth)
        if kind == "array":
            return self._array(schema, root, depth)
        if kind == "string":
            if schema.get("format") in _FORMATS:
                return {"type": "string", "format": schema["format"]}
            return self.string(schema)
        if kind == "integer":
            low, high = schema.get("minimum"), schema.get("maximum")
            if isinstance(low, int) and isinstance(high, int) and 0 <= high - low < _MOST_VALUES:
                return {"enum": list(range(low, high + 1))}
        return {"type": kind} if kind in ("integer", "number", "boolean") else {"type": "null"}

    def _object(self, schema: Schema, root: Schema, depth: int) -> Schema:
        required = [name for name in schema.get("required", []) if isinstance(name, str)]
        declared = schema.get("properties", {})
        kept = {
            name: self._bounded(each, root, depth + 1)
            for name, each in (declared.items() if isinstance(declared, dict) else ())
            if name in required or depth < MOST_DEPTH
        } if depth <= 2 * MOST_DEPTH else {}  # fmt: skip
        return {"type": "object", "properties": kept, "additionalProperties": False,
                "required": [name for name in required if name in kept]}  # fmt: skip

    def _array(self, schema: Schema, root: Schema, depth: int) -> Schema:
        most = min(MOST_ITEMS, _whole(schema.get("maxItems"), MOST_ITEMS))
        least = min(most, _whole(schema.get("minItems"), 0))
        if depth >= MOST_DEPTH or most == 0:
            return {"enum": [[]]}
        items = self._bounded(schema.get("items", {}), root, depth + 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _followed(schema: Schema, root: Schema) -> Schema:
    """What a local reference leads to; all parts of ``allOf`` in one."""
    for _ in range(MOST_DEPTH):
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            break
        node: Any = root
        for step in reference.removeprefix("#/").split("/"):
            node = node.get(step.replace("~1", "/").replace("~0", "~"), {})
            if not isinstance(node, dict):
                node = {}
        schema = node
    if isinstance(schema.get("allOf"), list):
        merged: Schema = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            part = _followed(part, root) if isinstance(part, dict) else {}
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            required = [*merged.get("required", []), *part.get("required", [])]
            merged = {**part, **merged, "properties": properties, "required": required}
        return merged
    return schema


def _guessed(schema: Schema) -> str | list[str]:
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else list(_ANY)


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and value >= 0 else otherwise


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
