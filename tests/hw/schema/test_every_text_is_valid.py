"""Random schemas of all keywords: every text that is allowed is valid, or the schema is refused."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios.hw.engine.engine import InvalidInput
from tests.guided import schema as constraint
from tests.guided import texts

NAMES = st.sampled_from(["a", "b", "ä", 'q"', "xx"])
COUNTS = st.integers(0, 3)
NUMBERS = st.one_of(st.integers(-9, 40), st.sampled_from([0.5, -1.25, 2.0]))
VALUES = st.sampled_from([None, True, False, 0, 1, 1.5, -3, "", "a", "ab", 'ü"\n', [], [1], {},
                          {"a": 1}, {"b": ["x"]}])  # fmt: skip
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
REFS = st.sampled_from(["#", "#/$defs/one", "#/$defs/two", "#named"])
PATTERNS = st.sampled_from(["^a", "b$", "^[a-c]{1,4}$", "x+", r"^\d*$", "^.?q"])


def _keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return schemas of up to four keywords."""
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    names = st.lists(NAMES, unique=True, max_size=2)
    row: dict[str, st.SearchStrategy[Any]] = {
        "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
        "const": VALUES, "enum": st.lists(VALUES, min_size=1, max_size=4),
        "anyOf": some, "oneOf": some, "allOf": some, "not": inner, "if": inner, "then": inner,
        "else": inner, "$ref": REFS, "properties": named, "required": names,
        "additionalProperties": inner, "unevaluatedProperties": inner, "unevaluatedItems": inner,
        "patternProperties": st.dictionaries(PATTERNS, inner, min_size=1, max_size=2),
        "propertyNames": inner, "minProperties": COUNTS, "maxProperties": COUNTS,
        "dependentRequired": st.dictionaries(NAMES, names, min_size=1, max_size=2),
        "dependentSchemas": named, "items": inner, "prefixItems": some, "contains": inner,
        "minContains": COUNTS, "maxContains": COUNTS, "minItems": COUNTS, "maxItems": COUNTS,
        "uniqueItems": st.booleans(), "minLength": COUNTS, "maxLength": COUNTS,
        "pattern": PATTERNS, "minimum": NUMBERS, "maximum": NUMBERS, "exclusiveMinimum": NUMBERS,
        "exclusiveMaximum": NUMBERS, "multipleOf": st.sampled_from([1, 2, 3, 0.5, 0.25, 1.5]),
        "title": st.just("t"),
    }  # fmt: skip
    chosen = st.lists(st.sampled_from(sorted(row)), min_size=1, max_size=4, unique=True)
    return chosen.flatmap(lambda words: st.fixed_dictionaries({word: row[word] for word in words}))


SCHEMAS = st.recursive(
    st.one_of(st.booleans(), _keywords(st.just({"type": "integer"}))), _keywords, max_leaves=5
)


@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(SCHEMAS, SCHEMAS, SCHEMAS)
def test_every_text_is_valid(schema: Any, one: Any, two: Any) -> None:
    two = {**two, "$anchor": "named"} if isinstance(two, dict) else two
    whole = {"$defs": {"one": one, "two": two, "n": {"$anchor": "named"} if two is True else {}},
             "allOf": [schema]}  # fmt: skip
    try:
        drawn = texts(constraint(whole), 4)
    except InvalidInput:
        return
    for text in drawn:
        jsonschema.validate(json.loads(text), whole, jsonschema.Draft202012Validator)
