"""Schemas of turns: each turn parses, matches its tool's schema and keeps the size bound."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.act_schema import max_bytes, turn
from aios.hw.engine.engine import InvalidInput
from aios.hw.engine.schema_grammar import schema_to_gbnf
from aios.hw.engine.schema_instances import instances
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.tool import ToolSpec
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
    for text in instances(json.dumps(made), 8):
        assert len(text) <= max_bytes(made)
        said = json.loads(text)
        for call in said.get("calls", []):
            jsonschema.validate(call["arguments"], schema)


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.booleans())
def test_every_turn_schema_becomes_a_grammar(schema: dict[str, Any], plain: bool) -> None:
    made = turn([_spec(_object({"x": schema}))], 4, 240, plain, last=False)
    assert "root ::=" in schema_to_gbnf(json.dumps(made))


@pytest.mark.parametrize("schema", [
    {}, {"properties": {"x": {}}}, {"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}},
     "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}},
    {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}]},
    {"properties": {"x": {"$ref": "#/nowhere"}, "y": {"type": "string", "pattern": "^(a+)+$"}}},
])  # fmt: skip
def test_odd_schemas_have_a_finite_size(schema: dict[str, Any]) -> None:
    made = turn([_spec(schema)], 2, 50, True, last=False)
    assert max_bytes(made) < 1 << 20 and schema_to_gbnf(json.dumps(made))
    assert all(json.loads(text) for text in instances(json.dumps(made), 4))


def test_strings_allow_no_control_characters() -> None:
    """JSON forbids line ends in strings; the rule of llama-cpp-python allows them."""
    rule = schema_to_gbnf('{"type": "string", "maxLength": 5}')
    assert r"char ::= [^\"\\\x00-\x1F\x7F]".replace(r"\"", '"') in rule


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("plain", [False, True])
def test_calls_match_odd_schemas(name: str, plain: bool) -> None:
    schema = {"type": "object", **ODD[name]}
    made = turn([_spec(schema)], 2, 50, plain, last=False)
    calls = [c for t in instances(json.dumps(made), 60) for c in json.loads(t).get("calls", [])]
    assert len(calls) > 20 and "root ::=" in schema_to_gbnf(json.dumps(made))
    for call in calls:
        jsonschema.validate(call["arguments"], schema)


@pytest.mark.parametrize(("low", "high"), [
    (0, 0), (1, 9), (0, 999), (5, 1234), (-3, 70), (-1234, -20), (-205, 30), (99, 100), (10, 119),
])  # fmt: skip
def test_integer_bounds_are_in_the_grammar(low: int, high: int) -> None:
    """The rule is read as a regular expression."""
    bounds = {"type": "integer", "minimum": low, "exclusiveMaximum": high + 1}
    rule = schema_to_gbnf(json.dumps(bounds))
    body = next(line for line in rule.splitlines() if line.startswith("root ::="))
    number = body.removeprefix("root ::= ").removesuffix(" space")
    fits = re.compile(number.replace('"', "").replace(" ", "")).fullmatch
    allowed = [n for n in range(low - 150, high + 150) if fits(str(n))]
    assert allowed == list(range(low, high + 1))
    assert not any(fits(text) for text in ("", "-", "-0", "00", "01", "1.0"))


@pytest.mark.parametrize("schema", [
    '{"type": "number", "maximum": 1e999}', '{"type": "integer", "minimum": -1e999}',
    '{"type": "integer", "minimum": 1700000000000000000}',
])  # fmt: skip
def test_huge_bounds_are_accepted(schema: str) -> None:
    assert "root ::=" in schema_to_gbnf(schema)


@pytest.mark.parametrize("schema", ['{"maximum": NaN}', '{"minimum": Infinity}', "[", "3"])
def test_an_invalid_schema_is_refused(schema: str) -> None:
    with pytest.raises(InvalidInput):
        schema_to_gbnf(schema)


def test_bounds_do_not_hide_other_constraints() -> None:
    rule = schema_to_gbnf('{"type": "integer", "enum": [1, 3, 5], "minimum": 1}')
    assert '"3"' in rule and "whole-number" not in rule
    named = {"type": "object", "properties": {"const": {"type": "integer", "maximum": 7}}}
    assert "[0-7]" in schema_to_gbnf(json.dumps(named))


def test_references_that_multiply_are_refused() -> None:
    choices = [{"$ref": "#/$defs/x"}] * 6
    schema = {"$defs": {"x": {"anyOf": choices}}, "properties": {"a": {"$ref": "#/$defs/x"}},
              "required": ["a"]}  # fmt: skip
    spec = ToolSpec("odd", "", json.dumps({"type": "object", **schema}))
    with pytest.raises(InvalidArgument, match="parts"):
        turn([spec], 1, 20, False, False)
