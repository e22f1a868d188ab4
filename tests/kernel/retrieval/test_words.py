"""Full-text queries from what users write, and the fusion of rankings."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from aios.kernel.retrieval.fusion import fuse
from aios.kernel.retrieval.words import MAX_TERMS, match, terms


def test_terms_are_the_distinct_words_and_the_longest_if_there_are_many() -> None:
    assert terms('The cat, the CAT\'s "hat"') == ["the", "cat", "s", "hat"]
    many = [f"w{number:0{number}}" for number in range(1, MAX_TERMS + 10)]
    assert set(terms(" ".join(many))) == set(many[-MAX_TERMS:])
    assert terms("?!") == []


@pytest.mark.parametrize(
    "query", ['"', '"cat', "cat AND (", "NEAR(cat", "text : cat", "cat*", "-cat", "{cat}", "^cat"]
)
def test_operators_are_text(query: str) -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE VIRTUAL TABLE t USING fts5(text, own)")
        database.execute("INSERT INTO t VALUES ('a cat sat', 'x'), ('a cat', 'y'), ('dog', 'x')")
        expression = match(query, "own", ["x"])
        found = database.execute("SELECT rowid FROM t WHERE t MATCH ?", (expression,)).fetchall() \
            if expression else []  # fmt: skip
    assert found == ([(1,)] if "cat" in query else [])


def test_nothing_to_look_for_matches_nothing() -> None:
    assert match("cat", "own", []) == match("?", "own", ["x"]) == ""


def test_fusion_prefers_what_both_rank_high() -> None:
    a, b, c = (True, 1), (True, 2), (False, 1)
    assert fuse([[a, b], [c, b]])[0][0] == b
    assert fuse([[], []]) == []
