"""``turnaround``: short and long jobs on few seats; how close is each policy to an oracle?

``srtf`` is the oracle: it knows the length of each reply. ``mlfq_share_of_oracle_gain``: mlfq's
gain over fifo in mean turnaround, as a share of srtf's.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, words
from aios.bench.rig.harness import Machine, kernel, progress
from aios.bench.rig.report import Report

SEATS, SHORT, LONG = 4, 18, 6
SHORT_TOKENS, LONG_TOKENS = (6, 14), (110, 130)
ARRIVALS_S = 3.0
POLICIES = ("fifo", "mlfq", "srtf", "fair")


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("turnaround", {"seed": seed, "seats": SEATS, "short": SHORT, "long": LONG,
                                   "repeats": repeats})  # fmt: skip
    with (
        kernel(["--seats", str(SEATS), "--ctx", "512"]) as machine,
        agents(machine, SHORT + LONG) as fleet,
    ):
        for repeat in range(repeats):
            for turn in range(len(POLICIES)):
                policy = POLICIES[(turn + repeat) % len(POLICIES)]
                progress(f"repeat {repeat + 1}/{repeats}: {policy}")
                _jobs(report, machine, fleet, policy, seed + repeat, turn)
    gains = {
        policy: [a - b for a, b in zip(report.arms["fifo"]["turnaround_mean_s"],
                                       report.arms[policy]["turnaround_mean_s"], strict=True)]
        for policy in ("mlfq", "srtf")
    }  # fmt: skip
    for mlfq, oracle in zip(gains["mlfq"], gains["srtf"], strict=True):
        report.figure("mlfq_share_of_oracle_gain", mlfq / oracle)
    report.ratio("fair_over_fifo", "fair", "fifo", "turnaround_mean_s")
    return report


def _jobs(
    report: Report, machine: Machine, fleet: Fleet, policy: str, seed: int, turn: int
) -> None:
    machine.schedule(policy)
    draw = random.Random(seed)
    lengths = [draw.randint(*SHORT_TOKENS) for _ in range(SHORT)]
    lengths += [draw.randint(*LONG_TOKENS) for _ in range(LONG)]
    times = [draw.uniform(0.0, ARRIVALS_S) for _ in range(SHORT)]
    times += [draw.uniform(0.0, ARRIVALS_S / 4) for _ in range(LONG)]
    start_s = time.monotonic() + 0.2
    for index, (length, after_s) in enumerate(zip(lengths, times, strict=True)):
        text = f"{words(6, 10_000 * seed + 1000 * turn + index)}. Write a very long story."
        order: Order = {"messages": chat(text), "max_tokens": length, "temperature": 0.0,
                        "expected_tokens": length, "at_s": start_s + after_s}  # fmt: skip
        fleet.send(index, order)
    results = [fleet.receive(index) for index in range(len(fleet))]
    spans = [result["end_s"] - result["start_s"] for result in results]
    report.add(policy, turnaround_mean_s=statistics.fmean(spans),
               short_mean_s=statistics.fmean(spans[:SHORT]),
               long_mean_s=statistics.fmean(spans[SHORT:]))  # fmt: skip
