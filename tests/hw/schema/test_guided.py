"""Which texts a schema allows: each kind of keyword, in the spellings that people use."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aios.hw.schema.document import EmptySchema, UnsupportedSchema
from aios.hw.schema.guided import guided_schema
from tests.guided import allows
from tests.guided import schema as constraint

Schema = dict[str, Any] | bool


def _in(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"v": schema}, "required": ["v"], **more}


def _tree(name: str) -> dict[str, Any]:
    node = {"type": "object", "properties": {"n": {"type": "integer"},
            "kids": {"type": "array", "items": {"$ref": f"#/$defs/{name}"}}},
            "required": ["n", "kids"]}  # fmt: skip
    return {"$ref": f"#/$defs/{name}", "$defs": {name: node}}


TREE = {"n": 1, "kids": [{"n": 2, "kids": []}]}
ENUM = {"type": ["string", "null"], "enum": ["red", None]}
KINDS = {"oneOf": [
    {"properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind", "x"]},
    {"properties": {"kind": {"const": "b"}, "y": {"type": "string"}}, "required": ["kind", "y"]},
]}  # fmt: skip
IF = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
    "if": {"properties": {"a": {"const": 1}}, "required": ["a"]},
    "then": {"required": ["b"]},
}
CLOSED = {
    "allOf": [{"properties": {"a": True}}],
    "properties": {"b": True},
    "unevaluatedProperties": False,
}
HALF = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    # types in a list, with other keywords
    (ENUM, ["red", None], ["banana", 3]),
    (
        {"type": ["object", "null"], "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        [{"a": 1}, None],
        [{}, {"b": "x"}, {"a": "x"}],
    ),
    (
        {"type": ["array", "null"], "items": {"type": "integer"}, "maxItems": 2},
        [[1, 2], None],
        [["x"], [1, 2, 3]],
    ),
    ({"type": ["integer", "null"], "minimum": 1, "maximum": 5}, [3, None], [0, 6, "x"]),
    ({"type": ["string", "integer"], "const": 7}, [7], ["7", 8]),
    # patterns
    ({"type": "string", "pattern": r"^v\d+\.\d+$"}, ["v1.2"], ["v1", "v1.2 "]),
    ({"type": "string", "pattern": "ab"}, ["xaby"], ["xa"]),
    ({"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}, ["abc"], ["abcd", ""]),
    ({"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ["ab"], ["a", "b"]),
    ({"type": "string", "pattern": '^"q"$'}, ['"q"'], ["q"]),
    # references
    (_tree("tree_node"), [TREE], [{"n": 1}]),
    (_tree("app.models.Node"), [TREE], []),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, [3], ["x"]),
    ({"$ref": "#/$defs/List%5Bint%5D", "$defs": {"List[int]": {"type": "integer"}}}, [3], ["x"]),
    ({"$ref": "#there", "$defs": {"x": {"$anchor": "there", "type": "integer"}}}, [3], ["x"]),
    (
        {"$ref": "tree", "$defs": {"x": {"$id": "tree", "type": "array", "items": {"$ref": "#"}}}},
        [[], [[]]],
        [1, [1]],
    ),
    ({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}}, [3], [2, 3.5]),
    (
        {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "next": {"$ref": "#"}},
            "required": ["n"],
        },
        [{"n": 1, "next": {"n": 2}}],
        [{"n": 1, "next": 3}],
    ),
    ({"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, [[1]], [[1, 2]]),
    # no type
    ({}, [3, "x", [1], {"a": None}], []),
    (True, [None], []),
    ({"title": "T"}, [3, "x"], []),
    ({"properties": {"a": {"type": "integer"}}, "required": ["a"]}, [{"a": 1}, 5, "x"], [{}]),
    ({"minLength": 2}, ["ab", 3, None], ["a"]),
    ({"enum": [1, 2.5, None, True, "x", {"a": [1]}]}, [2.5, True, {"a": [1]}], [False, {"a": 1}]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"k": 1}, {}], [{"k": "x"}]),
    (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
        [[1, "x", None], [1]],
        [["x"]],
    ),
    (
        {
            "type": "object",
            "propertyNames": {"maxLength": 1, "$ref": "#/$defs/n"},
            "$defs": {"n": {"propertyNames": {"$ref": "#/$defs/n"}}},
        },
        [{"a": 1}],
        [{"ab": 1}],
    ),
    # keywords that are often passed over
    (HALF, [0.5, 1], [0, 7.5, -3]),
    ({"type": "integer", "multipleOf": 5}, [15, -5], [7]),
    ({"type": "number", "multipleOf": 0.25}, [0.75, 2], [0.3]),
    (
        {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        [["b", "a"], []],
        [["a", "a"]],
    ),
    (
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
        [{"k": 1}],
        [{}],
    ),
    (
        {
            "properties": {"a": True, "b": True},
            "minProperties": 1,
            "maxProperties": 1,
            "type": "object",
        },
        [{"a": 1}, {"b": 1}],
        [{}, {"a": 1, "b": 1}],
    ),
    ({"type": "string", "not": {"enum": ["x", "xy"]}}, ["", "xyz", "y"], ["x", "xy"]),
    ({"type": "integer", "not": {"const": 3}}, [2, 4], [3]),
    ({"type": "object", "properties": {"a": True}, "not": {"required": ["a"]}}, [], [{"a": 1}]),
    (
        {
            "type": "object",
            "patternProperties": {"^a": {"type": "integer"}},
            "additionalProperties": False,
        },
        [{"ab": 1}, {}],
        [{"b": 1}, {"a": "x"}],
    ),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, [{"a": 1}], [{"c": 1}]),
    (
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a", "b"]},
        [{"a": 1, "b": 2}],
        [{"a": 1}],
    ),
    (
        {"properties": {"a": True, "b": True}, "dependentRequired": {"a": ["b"]}, "type": "object"},
        [{"b": 1}, {"a": 1, "b": 2}, {}],
        [{"a": 1}],
    ),
    ({"type": "integer", "enum": [1, 2], "minimum": 2}, [2], [1]),
    (
        {"type": "array", "contains": {"const": 1}, "items": {"type": "integer"}, "maxItems": 3},
        [[1], [2, 1]],
        [[], [2]],
    ),
    (KINDS, [{"kind": "a", "x": 1}, {"kind": "b", "y": "z"}], [{"kind": "a", "y": "z"}]),
    (
        {"oneOf": [{"type": "string"}, {"type": "integer"}, {"minimum": 4, "type": "integer"}]},
        ["x", 3],
        [4],
    ),
    (IF, [{"a": 2}, {"a": 1, "b": "x"}], [{"a": 1}]),
    (CLOSED, [{"a": 2, "b": 1}, {"b": 1}], [{"b": 1, "c": 2}]),
    # formats
    ({"type": "string", "format": "ipv4"}, ["10.0.0.1"], ["x", "1.2.3.400"]),
    ({"type": "string", "format": "date"}, ["2025-03-01"], ["2025-99-99", "soon"]),
    ({"type": "string", "format": "email"}, ["a@b.c"], ["x"]),
    ({"type": "string", "format": "my-own"}, ["x"], []),
    ({"type": "integer", "format": "int32"}, [3], ["x"]),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), CASES, ids=lambda each: str(each)[:40])
def test_valid_values_are_allowed_and_no_others(
    schema: Any, valid: list[Any], invalid: list[Any]
) -> None:
    for whole, wrap in ((schema, lambda v: v), (_in(schema), lambda v: {"v": v})):
        if whole is not schema and "$" in json.dumps(schema):
            continue  # references are to the root
        for value in valid:
            assert allows(constraint(whole), _spelled(wrap(value))), value
        for value in invalid:
            assert not allows(constraint(whole), _spelled(wrap(value))), value


def _spelled(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("text", [
    '{"v": "a"b"}', '{"v": "a\\"}', '{"v": "a\tb"}', '{"v": "\n"}', '{"v": 01}', '{"v": +1}',
    '{"v": .5}', '{"v": 1.}', "{'v': 1}", '{"v": NaN}', '{"v": "\\ud800"}', '{"v": "\x7f"}',
    '{"v": 1,}', '{"v": 1} ', ' {"v": 1}', '{"v":  1}', '{"v": 1', "",
])  # fmt: skip
@pytest.mark.parametrize("inner", [{}, {"pattern": "^.{1,40}$"}, {"type": ["string", "number"]}])
def test_what_is_no_json_in_its_one_spelling_is_not_allowed(text: str, inner: Schema) -> None:
    assert not allows(constraint(_in(inner)), text)


@pytest.mark.parametrize(("schema", "keyword", "pointer"), [
    ({"$ref": "https://example.com/x.json"}, "$ref", "#"),
    (_in({"$ref": "#/nowhere"}), "$ref", "#/properties/v"),
    ({"$ref": "#"}, "$ref", "#"),
    (_in({"type": "array", "uniqueItems": True}), "uniqueItems", "#/properties/v"),
    (_in({"type": "string", "not": {"pattern": "a"}}), "pattern", "#/properties/v/not"),
    (_in({"type": "string", "pattern": "(?=a)b"}), "pattern", "#/properties/v"),
    (_in({"type": "string", "format": "iri"}), "format", "#/properties/v"),
    ({"type": "string", "nullable": True}, "nullable", "#"),
    (_in({"type": "thing"}), "type", "#/properties/v/type"),
    ({"type": "integer", "minimum": "3"}, "minimum", "#/minimum"),
    ({"$schema": "https://example.com/mine"}, "$schema", "#"),
    ({"const": (1 << 53) + 1}, "enum", "#"),
    ({"type": "object", "minProperties": 2}, "minProperties", "#"),
    ({"type": "array", "minItems": 1 << 20}, "minItems", "#"),
    ({"items": {"not": {"type": "integer"}}}, "not", "#/items"),
    ({"a": {"b": {"enum": list(range(60_000))}}}, "the schema", "#"),
    ({"type": "array", "uniqueItems": True, "items": {"$ref": "#"}}, "uniqueItems", "#"),
])  # fmt: skip
def test_what_cannot_be_enforced_is_refused_with_its_place(
    schema: Any, keyword: str, pointer: str
) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        guided_schema(json.dumps(schema))
    assert (caught.value.keyword, caught.value.pointer) == (keyword, pointer), caught.value


@pytest.mark.parametrize("schema", [
    False, {"enum": []}, {"type": "integer", "minimum": 3, "maximum": 2}, {"not": {}},
    {"type": "string", "const": 3}, {"type": "array", "items": False, "minItems": 1},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    {"type": "string", "minLength": 3, "maxLength": 2},
])  # fmt: skip
def test_a_schema_without_a_finite_value_is_refused(schema: Any) -> None:
    with pytest.raises(EmptySchema):
        guided_schema(json.dumps(schema))


@pytest.mark.parametrize("text", ["", "[", "3", '"x"', "null", '{"maximum": NaN}', '{"a": 1e999}',
                                  "[" * 100_000, '{"items":' * 90 + "{}" + "}" * 90,
                                  '{"const": "\\ud800"}'])  # fmt: skip
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedSchema):
        guided_schema(text)


def test_objects_are_closed_unless_they_say_otherwise_or_are_read_literally() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}}
    assert not allows(constraint(schema), '{"a": null, "b": 1}')
    assert allows(constraint({**schema, "additionalProperties": True}), '{"a": null, "b": 1}')
    assert '"additionalProperties": true' in guided_schema(json.dumps(schema), literal=True)


@pytest.mark.parametrize("more", [{}, {"minimum": 3}, {"multipleOf": 5}, {"not": {"const": 7}}])
def test_integers_end(more: dict[str, Any]) -> None:
    schema = {"type": "integer", **more}
    assert allows(constraint(schema), "1234567890" * 1 + "5")
    assert not allows(constraint(schema), "1234567890" * 2 + "5")
    assert json.loads(guided_schema(json.dumps(schema), literal=True))["allOf"]


def test_a_declared_name_cannot_be_spelled_as_another() -> None:
    """Else "a" would get a value of the undeclared ones."""
    schema = {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"},
              "type": "object"}  # fmt: skip
    assert allows(constraint(schema), '{"a": 1, "b": "x"}')
    assert not allows(constraint(schema), '{"\\u0061": "x"}')


def test_huge_bounds_are_kept() -> None:
    most = {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 63) - 1}
    assert allows(constraint(most), str(1 << 61)) and not allows(constraint(most), str(1 << 70))
    late = {"type": "integer", "minimum": 1_700_000_000_000_000_000}
    assert allows(constraint(late), "1800000000000000000")
    assert not allows(constraint(late), "1600000000000000000")
