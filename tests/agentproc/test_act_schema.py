"""Schemas of turns: each turn parses, matches its tool's schema and keeps the size bound."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.act_schema import max_bytes, turn
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.tool import ToolSpec
from tests.guided import schema as constraint
from tests.guided import texts
from tests.odd_schemas import ODD

_LEAVES = st.sampled_from([
    {"type": "string"}, {"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2},
    {"type": "integer"}, {"type": "integer", "minimum": 1, "maximum": 5}, {"type": "number"},
    {"type": "boolean"}, {"type": "null"}, {"enum": ["a", "ü", 3, None]}, {"const": {"x": [1]}},
    {"type": "string", "format": "date"}, {"type": ["string", "null"]},
])  # fmt: skip


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)[::2]}


SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.text("abcdef", min_size=1, max_size=4), inner, max_size=3).map(_object),
        inner.map(lambda each: {"type": "array", "items": each, "maxItems": 2}),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each}),
    ),
    max_leaves=6,
)


def _spec(schema: dict[str, Any]) -> ToolSpec:
    return ToolSpec("t", parameters=json.dumps(schema))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), SCHEMAS, max_size=3), st.booleans())
def test_every_turn_matches_the_tools_schema_and_the_size_bound(
    fields: dict[str, Any], plain: bool
) -> None:
    schema = _object(fields)
    made = turn([_spec(schema)], 2, 16, plain, last=False)
    for text in texts(constraint(made), 4):
        assert len(text.encode()) <= max_bytes(made)
        said = json.loads(text)
        for call in said.get("calls", []):
            jsonschema.validate(call["arguments"], schema)


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.booleans())
def test_every_turn_schema_becomes_a_grammar(schema: dict[str, Any], plain: bool) -> None:
    made = turn([_spec(_object({"x": schema}))], 4, 240, plain, last=False)
    assert json.loads(*texts(constraint(made), 1))


@pytest.mark.parametrize("schema", [
    {}, {"properties": {"x": {}}}, {"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}},
     "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}},
    {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}]},
    {"properties": {"x": {"$ref": "#/nowhere"}, "y": {"type": "string", "pattern": "^(a+)+$"}}},
])  # fmt: skip
def test_odd_schemas_have_a_finite_size(schema: dict[str, Any]) -> None:
    made = turn([_spec(schema)], 2, 50, True, last=False)
    assert max_bytes(made) < 1 << 20
    assert all(json.loads(text) for text in texts(constraint(made), 4))


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("plain", [False, True])
def test_calls_match_odd_schemas(name: str, plain: bool) -> None:
    schema = {"type": "object", **ODD[name]}
    made = turn([_spec(schema)], 2, 50, plain, last=False)
    drawn = [json.loads(text) for text in texts(constraint(made), 20)]
    calls = [call for said in drawn for call in said.get("calls", [])]
    assert len(calls) > 5
    for call in calls:
        jsonschema.validate(call["arguments"], schema)


def test_references_that_multiply_are_refused() -> None:
    choices = [{"$ref": "#/$defs/x"}] * 6
    schema = {"$defs": {"x": {"anyOf": choices}}, "properties": {"a": {"$ref": "#/$defs/x"}},
              "required": ["a"]}  # fmt: skip
    spec = ToolSpec("odd", "", json.dumps({"type": "object", **schema}))
    with pytest.raises(InvalidArgument, match="parts"):
        turn([spec], 1, 20, False, False)
