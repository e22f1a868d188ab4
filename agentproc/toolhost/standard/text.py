"""Text: count, find, replace, compare, and read values in JSON."""

from __future__ import annotations

import difflib
import json
import re
from typing import Annotated, Any

from msgspec import Meta

from aios.syscalls.errors import InvalidArgument
from aios.tool import tool

Text = Annotated[str, Meta(max_length=1 << 19)]
MatchLimit = Annotated[int, Meta(ge=1, le=1000)]


@tool(effect="read", idempotent=True)
def count_text(text: Text) -> dict[str, int]:
    """Count the characters, words and lines of a text.

    text: the text
    """
    return {"characters": len(text), "words": len(text.split()), "lines": len(text.splitlines())}


@tool(effect="read", idempotent=True)
def find_in_text(text: Text, pattern: str, limit: MatchLimit = 20) -> list[dict[str, Any]]:
    """Find the matches of a regular expression in a text, with their positions.

    text: the text
    pattern: a regular expression
    limit: maximum number of matches
    """
    found = []
    for match in _compile(pattern).finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append({"line": line, "at": match.start(), "text": match[0]})
        if len(found) == limit:
            break
    return found


@tool(effect="read", idempotent=True)
def replace_in_text(text: Text, pattern: str, by: str) -> str:
    """Replace each match of a regular expression in a text.

    text: the text
    pattern: a regular expression
    by: the replacement; \\1 stands for a group
    """
    try:
        return _compile(pattern).sub(by, text)
    except (re.error, IndexError) as error:
        raise InvalidArgument(f"by: {error}") from None


@tool(effect="read", idempotent=True)
def compare_texts(old: Text, new: Text) -> str:
    """Compare two texts. Returns a unified diff.

    old: the old text
    new: the new text
    """
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "old", "new", lineterm="")
    return "\n".join(lines)


@tool(effect="read", idempotent=True)
def read_json(document: Text, path: str = "") -> Any:
    """Read a value in a JSON document.

    document: the JSON text
    path: keys and indexes separated by dots, for example: users.0.name
    """
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the document is not JSON: {error}") from None
    for step in path.split(".") if path else []:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise InvalidArgument(f"the document has no {step!r} of {path!r}") from None
    return value


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidArgument(f"{pattern!r} is not a regular expression: {error}") from None


TOOLS = (count_text, find_in_text, replace_in_text, compare_texts, read_json)
