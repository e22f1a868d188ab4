"""Run the JSON-Schema-Test-Suite against the schemas that constrain texts.

    python tools/schema_suite.py PATH/TO/JSON-Schema-Test-Suite

For each case: a valid instance must be accepted by the grammar, an invalid one must not. A schema
that is refused counts apart, by keyword; one that is refused because it allows no value accepts
none. An instance is a value, and a grammar holds a value to one spelling: so numbers are spelled
plainly (1 for 1.0), and the members of an object are tried in every order until one is accepted; an
invalid instance must be accepted in none. Schemas are read literally: formats are annotations, and
objects are open. The vocabulary is the 256 bytes. Exit code 1 if a case is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from llguidance import LLMatcher

from aios.hw.schema.document import EmptySchema, UnsupportedSchema
from aios.hw.schema.guided import guided_schema
from aios.hw.schema.vocabulary import byte_tokenizer


def main() -> int:
    """Run the required tests of draft 2020-12, or of another draft."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("suite", type=Path, help="a checkout of JSON-Schema-Test-Suite")
    parser.add_argument("--draft", default="draft2020-12", help="a folder of its tests")
    parser.add_argument("--show", action="store_true", help="print each refused schema")
    options = parser.parse_args()
    files = sorted((options.suite / "tests" / options.draft).glob("*.json"))
    if not files:
        parser.error(f"no tests in {options.suite / 'tests' / options.draft}")
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for file in files:
        for group in json.loads(file.read_text()):
            _run(file.stem, group, counts, refused, show=options.show)
    total = sum(counts.values())
    print(
        f"{total} cases: {counts['right']} right, {counts['wrong']} wrong, "
        f"{counts['refused']} refused ({counts['refused'] / total:.1%})"
    )
    for keyword, count in refused.most_common():
        print(f"  refused for {keyword}: {count}")
    return 1 if counts["wrong"] else 0


def _run(
    name: str, group: dict[str, Any], counts: Counter[str], refused: Counter[str], *, show: bool
) -> None:
    try:
        grammar = LLMatcher.grammar_from_json_schema(
            guided_schema(json.dumps(group["schema"]), literal=True)
        )
        matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0)
        if matcher.is_error():
            raise UnsupportedSchema("#", "llguidance", matcher.get_error().partition("\n")[0])
    except EmptySchema:  # it accepts nothing
        for test in group["tests"]:
            counts["wrong" if test["valid"] else "right"] += 1
        return
    except UnsupportedSchema as error:
        counts["refused"] += len(group["tests"])
        refused[error.keyword] += len(group["tests"])
        if show:
            print(f"refused {name}: {group['description']}: {error}")
        return
    for test in group["tests"]:
        good = any(_accepts(matcher, text) for text in _spellings(test["data"])) is test["valid"]
        counts["right" if good else "wrong"] += 1
        if not good:
            print(
                f"WRONG {name}: {group['description']}: {test['description']}\n"
                f"  schema {json.dumps(group['schema'])}\n  instance {json.dumps(test['data'])}"
                f" is {'valid' if test['valid'] else 'invalid'}"
            )


def _accepts(matcher: LLMatcher, text: str) -> bool:
    tokens = list(text.encode())
    matcher.reset()
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def _spellings(value: Any) -> Iterator[str]:
    """Yield the spellings of a value: members in every order, numbers plainly."""
    if isinstance(value, dict):
        for items in _orders(list(value.items())):
            yield "{" + ", ".join(items) + "}"
    elif isinstance(value, list):
        for parts in _each([list(_spellings(item)) for item in value]):
            yield "[" + ", ".join(parts) + "]"
    elif isinstance(value, float):
        plain = f"{Decimal(repr(value)):f}"
        yield plain.rstrip("0").rstrip(".") if "." in plain else plain
    else:
        yield json.dumps(value, ensure_ascii=False)


def _orders(items: list[tuple[str, Any]]) -> Iterator[list[str]]:
    if not items:
        yield []
    for at, (name, value) in enumerate(items):
        for spelled in _spellings(value):
            for others in _orders([*items[:at], *items[at + 1 :]]):
                yield [f"{json.dumps(name, ensure_ascii=False)}: {spelled}", *others]


def _each(options: list[list[str]]) -> Iterator[list[str]]:
    if not options:
        yield []
        return
    for first in options[0]:
        for others in _each(options[1:]):
            yield [first, *others]


if __name__ == "__main__":
    sys.exit(main())
