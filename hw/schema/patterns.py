"""Regular expressions of schemas, as llguidance reads them: ECMAScript's, without look-around."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence

from llguidance import LLMatcher

from .vocabulary import byte_tokenizer

FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid",
           "uri")  # fmt: skip
"""The formats that are enforced."""
UNENFORCED_FORMATS = ("idn-email", "idn-hostname", "iri", "iri-reference", "uri-reference",
                      "uri-template", "json-pointer", "relative-json-pointer", "regex")  # fmt: skip
"""The other formats of the specification. All further names are annotations."""


def problem(pattern: str) -> str:
    """Return why a pattern cannot be enforced; "" if it can."""
    return schema_problem({"type": "string", "pattern": pattern})


def schema_problem(schema: dict[str, object]) -> str:
    """Return what llguidance says against a schema; "" if it can be enforced."""
    return _matcher(schema).get_error().partition("\n")[0][:200]


@functools.lru_cache(10_000)
def matches(pattern: str, text: str) -> bool:
    """Return True if a pattern matches somewhere in a text."""
    return fits({"type": "string", "pattern": pattern}, text)


def fits(schema: dict[str, object], text: str) -> bool:
    """Return True if a string is valid in a schema of llguidance's."""
    matcher = _matcher(schema)
    spelled = list(json.dumps(text, ensure_ascii=False).encode())
    return matcher.try_consume_tokens(spelled) == len(spelled) and matcher.is_accepting()


def is_universal(pattern: str) -> bool:
    """Return True for a pattern that matches every text: without anchors, it matches nothing."""
    return not any(anchor in pattern for anchor in ("^", "$", "\\b", "\\B")) and matches(
        pattern, ""
    )


def overlap(patterns: Sequence[str]) -> str:
    """Return which patterns of names have a name in common; "" if none have."""
    if len(patterns) < 2:
        return ""
    made = _matcher({"type": "object", "patternProperties": dict.fromkeys(patterns, True)})
    return made.get_error().partition("\n")[0][:200]


def _matcher(schema: dict[str, object]) -> LLMatcher:
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    return LLMatcher(byte_tokenizer(), grammar, log_level=0)


def none_of(texts: Iterable[str]) -> str:
    """Return a pattern for all strings but these."""
    return f"^(?:{_rest(sorted(set(texts)))})$"


def _rest(texts: Sequence[str]) -> str:
    """Return a pattern for the strings that are none of the texts, which are distinct."""
    options = [] if "" in texts else [""]
    heads: dict[str, list[str]] = {}
    for text in texts:
        if text:
            heads.setdefault(text[0], []).append(text[1:])
    for head, tails in heads.items():
        options.append(f"{_literal(head)}(?:{_rest(tails)})")
    others = "".join(_literal(head) for head in heads)
    options.append(f"[^{others}][\\s\\S]*" if heads else "[\\s\\S]+")
    return "|".join(options)


def _literal(text: str) -> str:
    return "".join(f"\\x{{{ord(c):x}}}" if not c.isalnum() else c for c in text)


def length(least: int, most: int | None) -> str:
    """Return a pattern for the strings of a length in characters."""
    return f"^[\\s\\S]{{{least},{'' if most is None else most}}}$"
