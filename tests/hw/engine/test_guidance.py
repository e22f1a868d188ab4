"""Sources of constrained texts, and what is refused before anything is generated."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from aios.hw.engine.engine import ConstraintKind, InvalidInput
from aios.hw.engine.guidance import Guide
from aios.hw.schema.vocabulary import byte_tokenizer
from tests.guided import allows, schema, source

MAX_CPU_S = 5.0
"""On a busy machine; the limit is about a second."""


@pytest.mark.parametrize(("kind", "text", "allowed", "forbidden"), [
    ("regex", r"[a-c]{2}-\d+", ["ab-7"], ["ab-", "abc-7", " ab-7"]),
    ("regex", "(a|b)*", ["", "abba"], ["abc"]),
    ("choice", '["yes", "no", "n\\u00f6 \\"\\\\\\n"]', ["yes", 'nö "\\\n'], ["y", "maybe", ""]),
    ("lark", 'start: "x" NUMBER\nNUMBER: /[0-9]+/', ["x12"], ["x", "12"]),
    ("lark", 'start: "go " %json {"type": "boolean"}', ["go true"], ["go 1"]),
    ("grammar", 'root ::= "yes" | "no"', ["yes"], ["maybe"]),
    ("grammar", 'root ::= item ("," item)*\nitem ::= [a-z]+ # one', ["a,bc"], ["a,", "A"]),
    ("grammar", 'root ::= "\\u00e4" [\\u00e4-\\u00f6] [^"\\\\] "\\x41"', ["ääxA"],
     ["aaxA", 'ää"A']),
    ("grammar", "root ::= [0-9]{2,3}", ["12", "123"], ["1", "1234"]),
])  # fmt: skip
def test_a_source_allows_its_texts(
    kind: ConstraintKind, text: str, allowed: list[str], forbidden: list[str]
) -> None:
    constraint = source(kind, text)
    assert all(allows(constraint, each) for each in allowed)
    assert not any(allows(constraint, each) for each in forbidden)


@pytest.mark.parametrize(("kind", "text", "why"), [
    ("regex", "(", "regular expression.*unclosed group"), ("regex", "(?=a)b", "look-around"),
    ("regex", "\ud800", "Unicode"), ("regex", "a" * (1 << 20) + "a", "limit is 1,048,576"),
    ("regex", "(" * 100_000 + ")" * 100_000, "regular expression"),
    ("lark", "start: nothing", "Lark grammar.*unknown name"), ("lark", "", "Lark grammar"),
    ("lark", 'start: start "a"', "Lark grammar allows no text"),
    ("lark", "start: " + "(" * 100_000, "nested"),
    ("lark", "".join(f'a{n}: a{n + 1} "x"\n' for n in range(20_000)), "20,000 rules"),
    ("lark", 'start: %json {"not": {}}', "not"),
    ("grammar", "no rules here", "GBNF grammar cannot be converted"),
    ("grammar", 'root ::= "a', "GBNF"), ("grammar", "", "GBNF"), ("grammar", "root ::= x", "GBNF"),
    ("grammar", "root ::= root", "GBNF grammar allows no text"),
    ("grammar", 'root ::= !"a"', "GBNF grammar cannot be converted"),
    ("grammar", "root ::= " + "(" * 100_000, "nests its groups too deeply"),
    ("grammar", "".join(f'a{n} ::= a{n + 1} "x"\n' for n in range(20_000)), "20,000 rules"),
    ("grammar", "root ::= " + '"a" ' * 50_000, "longer than"),
    ("json_schema", '{"$ref": "https://example.com/x"}', "at #: .ref .*nothing is fetched"),
    ("json_schema", "[" * 5000, "nests more than"),
    ("json_schema", json.dumps({"enum": ["x" * 90 + str(n) for n in range(20_000)]}), "bytes"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(kind: ConstraintKind, text: str, why: str) -> None:
    start_s = time.process_time()
    with pytest.raises(InvalidInput, match=why):
        Guide(byte_tokenizer(), source(kind, text))
    assert time.process_time() - start_s < MAX_CPU_S


MANY = [f"value {n}" for n in range(10_000)]


@pytest.mark.parametrize(("value", "text"), [
    ({"enum": MANY}, '"value 9876"'), ({"type": ["string", "null"], "enum": MANY}, '"value 77"'),
    ({"anyOf": [{"enum": MANY}, {"type": "integer"}]}, '"value 77"'),
    ({"enum": ["x" * 80 + str(n) for n in range(10_000)]}, '"' + "x" * 80 + '77"'),
    ({"type": "string", "pattern": "^(a+)+$"}, '"aaaaaaaaaaaaaaaaaaaaaaaa"'),
    ({"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}, '"aaaaaaaaaaaaaaaaaaaaBa"'),
    ({"type": "string", "pattern": ".*a.{20}b"}, '"' + "a" * 21 + 'b"'),
    ({"type": "string", "maxLength": 10**12}, '"text"'),
    ({"type": "array", "maxItems": 10**9}, "[]"),
    ({"type": "object", "properties": {name: {"const": 1} for name in MANY[:400]}},
     '{"value 7": 1}'),
    ({"type": "object", "properties": {name: {"const": 1} for name in MANY[:1000]},
      "required": MANY[:1000]}, json.dumps(dict.fromkeys(MANY[:1000], 1))),
])  # fmt: skip
def test_what_is_large_takes_little_time(value: Any, text: str) -> None:
    start_s = time.process_time()
    assert allows(schema(value), text)
    assert time.process_time() - start_s < MAX_CPU_S


def test_forced_tokens_are_what_must_come_next() -> None:
    guide = Guide(byte_tokenizer(), schema({"type": "object", "properties": {"name": {"const": 1}},
                                            "required": ["name"]}))  # fmt: skip
    assert bytes(guide.forced()) == b'{"name": 1}'
    for token in b'{"na':
        guide.accept(token)
    assert bytes(guide.forced()) == b'me": 1}'
    for token in b'me": 1}':
        assert not guide.complete
        guide.accept(token)
    assert guide.complete and guide.forced() == []
