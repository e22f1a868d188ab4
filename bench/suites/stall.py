"""``stall``: a prompt of 2,000 tokens arrives while four streams generate; how long do they pause?

``ours``: chunks of the size measured at load. ``unchunked``: the whole prompt in one step.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from aios.bench.rig.fleet import Fleet, agents, chat, words
from aios.bench.rig.harness import Machine, kernel, progress
from aios.bench.rig.report import Report

STREAMS, PROMPT_WORDS, BEFORE_S = 4, 1950, 1.0
STREAM_TOKENS = {"ours": 96, "unchunked": 48}
"""Tokens of each stream, enough to outlast the prompt."""
CHUNKS = {"ours": 0, "unchunked": 4096}


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("stall", {"seed": seed, "streams": STREAMS, "prompt_words": PROMPT_WORDS,
                              "repeats": repeats})  # fmt: skip
    with (
        kernel(["--seats", "8", "--ctx", "3072"]) as machine,
        agents(machine, STREAMS, name="stream") as streams,
        agents(machine, 1, name="newcomer") as newcomer,
    ):
        for repeat in range(repeats):
            arms = list(CHUNKS)
            for turn, arm in enumerate(arms if repeat % 2 else reversed(arms)):
                progress(f"repeat {repeat + 1}/{repeats}: {arm}")
                _stall(report, machine, arm, streams, newcomer, 100 * (seed + repeat) + 10 * turn)
    report.ratio("gap_unchunked_over_ours", "unchunked", "ours", "longest_gap_s")
    return report


def _stall(
    report: Report, machine: Machine, arm: str, streams: Fleet, newcomer: Fleet, seed: int
) -> None:
    machine.schedule("fair", chunk=CHUNKS[arm])
    for index in range(STREAMS):
        text = f"{words(6, seed + index)}. Write a very long story with these words."
        streams.send(index, {"messages": chat(text), "max_tokens": STREAM_TOKENS[arm],
                             "temperature": 0.0, "stream": True})  # fmt: skip
    newcomer.send(0, {"messages": chat(words(PROMPT_WORDS, seed)), "max_tokens": 2,
                      "temperature": 0.0, "at_s": time.monotonic() + BEFORE_S})  # fmt: skip
    arrived = newcomer.receive(0)
    gaps = []
    for index in range(STREAMS):
        times = streams.receive(index)["times_s"]
        during = [t for t in times if t > arrived["start_s"] - 0.5]
        gaps += [b - a for a, b in itertools.pairwise(during)]
    report.add(arm, longest_gap_s=max(gaps), prompt_tokens=arrived["prompt_tokens"],
               newcomer_s=arrived["end_s"] - arrived["start_s"])  # fmt: skip
