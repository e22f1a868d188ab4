"""Full-text queries (FTS5) from text that users write.

Only the words of a text count: quotes, operators and other punctuation of FTS5 mean nothing. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_TERMS = 24
"""Limit on words of one query. The longest are kept, because they tell the most."""


def terms(query: str) -> list[str]:
    """Return the distinct words of a query, at most MAX_TERMS."""
    words = list(dict.fromkeys(re.findall(r"\w+", query.lower())))
    if len(words) > MAX_TERMS:
        words = sorted(words, key=len, reverse=True)[:MAX_TERMS]
    return words


def match(query: str, column: str, values: Iterable[object]) -> str:
    """Return the FTS5 expression for rows that have any word of ``query`` in their ``text`` and
    any of ``values`` in ``column``. Return '' when no row can match."""
    words, allowed = _any(terms(query)), _any(values)
    return f"({column} : ({allowed})) AND (text : ({words}))" if words and allowed else ""


def _any(values: Iterable[object]) -> str:
    return " OR ".join(f'"{value}"' for value in values)
