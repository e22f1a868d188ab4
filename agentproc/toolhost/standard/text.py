"""Text: counting, finding, replacing, comparing, and reaching into JSON."""

from __future__ import annotations

import difflib
import json
import re
from typing import Annotated, Any

from msgspec import Meta

from aios.syscalls.errors import InvalidArgument
from aios.tool import tool

Words = Annotated[str, Meta(max_length=1 << 19)]
Few = Annotated[int, Meta(ge=1, le=1000)]


@tool(effect="read", idempotent=True)
def count_text(text: Words) -> dict[str, int]:
    """Count the characters, words and lines of a text.

    text: the text
    """
    return {"characters": len(text), "words": len(text.split()), "lines": len(text.splitlines())}


@tool(effect="read", idempotent=True)
def find_in_text(text: Words, pattern: str, limit: Few = 20) -> list[dict[str, Any]]:
    """Find a regular expression in a text: where it is and what matched.

    text: where to look
    pattern: a regular expression
    limit: how many matches at most
    """
    found = []
    for match in _compiled(pattern).finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append({"line": line, "at": match.start(), "text": match[0]})
        if len(found) == limit:
            break
    return found


@tool(effect="read", idempotent=True)
def replace_in_text(text: Words, pattern: str, by: str) -> str:
    """Replace each match of a regular expression in a text.

    text: the text
    pattern: a regular expression
    by: what to put there; \\1 stands for a group
    """
    try:
        return _compiled(pattern).sub(by, text)
    except (re.error, IndexError) as error:
        raise InvalidArgument(f"by: {error}") from None


@tool(effect="read", idempotent=True)
def compare_texts(old: Words, new: Words) -> str:
    """The difference of two texts, as a unified diff.

    old: the text before
    new: the text after
    """
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "old", "new", lineterm="")
    return "\n".join(lines)


@tool(effect="read", idempotent=True)
def read_json(document: Words, path: str = "") -> Any:
    """A value inside a JSON document.

    document: the JSON text
    path: keys and indexes with dots between, for example: users.0.name
    """
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the document is no JSON: {error}") from None
    for step in path.split(".") if path else []:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise InvalidArgument(f"the document has no {step!r} of {path!r}") from None
    return value


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidArgument(f"{pattern!r} is no regular expression: {error}") from None


TOOLS = (count_text, find_in_text, replace_in_text, compare_texts, read_json)
