"""``retrieval``: what search finds among real documents: by words, by meaning, and mixed."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aios.syscalls.memory_types import AddRequest, SearchReply, SearchRequest

from .harness import kernel, progress
from .managers_memory import SCOPE, K, data_folder, guest, spread
from .report import Report

DOCUMENTS, DOCUMENT_CHARS = 500, 300


class Document(NamedTuple):
    """A document, and a question that it alone answers."""

    text: str
    question: str


def documents(seed: int) -> Sequence[Document]:
    """The explanations of ruff's rules, which the package of that name ships, and as questions the
    rules' one-line summaries. Raises RuntimeError when it is not installed."""
    try:
        shown = subprocess.run(
            [Path(sys.executable).with_name("ruff"), "rule", "--all", "--output-format", "json"],
            capture_output=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        raise RuntimeError("the package ruff is not installed\n  pip install ruff") from None
    rules = [rule for rule in json.loads(shown.stdout) if rule["summary"]]
    chosen = random.Random(seed).sample(rules, DOCUMENTS)
    return [
        Document(_plain(rule["explanation"])[:DOCUMENT_CHARS], rule["summary"].replace("`", ""))
        for rule in chosen
    ]


def _plain(markdown: str) -> str:
    """Without the headings that all have."""
    return re.sub(r"## (What it does|Why is this bad\?|Example)\n", "", markdown)


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """recall@5: how often the one right document is among five, by words, by meaning, and mixed."""
    found = documents(seed)
    report = Report("retrieval", {"seed": seed, "documents": len(found), "k": K,
                                  "characters": DOCUMENT_CHARS})  # fmt: skip
    with data_folder() as data, kernel(("--model", "fake"), data=data), guest() as connection:
        folder = data / "documents"
        folder.mkdir()
        for number, document in enumerate(found):
            (folder / f"{number}.md").write_text(document.text)
        ids = {}
        for number in range(len(found)):
            text = (folder / f"{number}.md").read_text()
            ids[number] = connection.call("memory.add", AddRequest(text, SCOPE)).id
        progress(f"computing {len(found)} vectors")
        warm: SearchReply = connection.call(
            "memory.search", SearchRequest("warm", K, (SCOPE,), "semantic", fresh=True), 900.0
        )
        if warm.mode != "semantic":
            raise RuntimeError(f"no search by meaning: {warm.why}")
        for mode in ("keyword", "semantic", "mixed"):
            hits, times = 0, []
            for number, document in enumerate(found):
                start = time.perf_counter()
                body = SearchRequest(document.question, K, (SCOPE,), mode)
                reply: SearchReply = connection.call("memory.search", body)
                times.append(time.perf_counter() - start)
                hits += ids[number] in [hit.note.id for hit in reply.hits]
            report.add(mode, recall_at_5=hits / len(found), **spread("search", times))
    report.check("mixed_is_not_worse", report.arms["mixed"]["recall_at_5"][0] >= max(
        report.arms[arm]["recall_at_5"][0] for arm in ("keyword", "semantic")))  # fmt: skip
    return report
