"""Schemas of tools with features that a model can get wrong."""

from __future__ import annotations

from typing import Any

ODD: dict[str, dict[str, Any]] = {
    "enums": {"properties": {"e": {"enum": ["a", "ü \"\n", 3, None, 1.5, {"x": [1]}]},
                             "t": {"type": "string", "enum": ["a", 1]}}, "required": ["e", "t"]},
    "nested": {"properties": {"o": {"type": "object", "properties": {"p": {"type": "object",
               "properties": {"q": {"type": "boolean"}}, "required": ["q"]}}, "required": ["p"]}},
               "required": ["o"]},
    "lists": {"properties": {"l": {"type": "array", "items": {"type": "integer", "minimum": 5,
              "maximum": 1234}, "minItems": 1, "maxItems": 3}, "u": {"type": "array", "items":
              {"type": "boolean"}, "uniqueItems": True}}, "required": ["l", "u"]},
    "nullable": {"properties": {"n": {"type": ["string", "null"]}, "m": {"anyOf": [
                 {"type": "integer", "exclusiveMinimum": -3, "maximum": 70}, {"type": "null"}]}},
                 "required": ["m"]},
    "unicode": {"properties": {"größe": {"type": "string", "minLength": 1, "maxLength": 5},
                "a b": {"type": "boolean"}, "a-b": {"type": "null"}, 'q"\\': {"const": "\\"}},
                "required": ["größe", "a b", "a-b"]},
    "recursion": {"properties": {"node": {"$ref": "#/$defs/node"}}, "required": ["node"], "$defs": {
                  "node": {"type": "object", "properties": {"value": {"type": "integer"}, "next": {
                  "anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["value"]}}},
    "pattern": {"properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}$"},
                               "n": {"type": "integer"}}, "required": ["n"]},
    "bounds": {"properties": {"i": {"type": "integer", "minimum": 1}, "j": {"type": "integer",
               "maximum": -20}, "f": {"type": "number", "minimum": 0, "maximum": 1},
               "k": {"type": "integer", "multipleOf": 7, "minimum": 50}},
               "required": ["i", "j", "f", "k"]},
    "empty": {"properties": {}}, "nothing": {}, "undeclared": {"required": ["x"]},
    "parts": {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                        {"properties": {"b": {"type": "string"}}}], "required": ["b"]},
}  # fmt: skip
