"""``swap``: the cost of parking a context: bandwidth, throughput, and against recomputing it.

``memcpy``: numpy's copy of the same bytes within the same arena. ``park`` and ``restore``: the
core's operations, from seat to image and back. The time of ``restore`` includes the checksum;
that of ``park`` does not, because the core computes it in parallel with its next step. Caches are
cold, as in production. ``recompute``: the prefill that a restore saves. ``few`` and ``many``:
sixteen agents on 4 and on 16 seats, both in batches of 4, so they differ only in parking;
``many_wide``: on 16 seats in batches of 16.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, rate, words
from aios.bench.rig.harness import Machine, kernel, progress
from aios.bench.rig.parking import CONTEXT_TOKENS
from aios.bench.rig.report import Report
from aios.hw.machine.huge_pages import engine_environment

AGENTS, SEATS, TOKENS, PROMPT_WORDS = 16, 4, 24, 100


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("swap", {"seed": seed, "context_tokens": CONTEXT_TOKENS, "agents": AGENTS,
                             "repeats": repeats})  # fmt: skip
    progress("one context, moved")
    _bandwidth(report, seed, repeats)
    report.ratio("park_over_memcpy", "park", "memcpy", "gigabytes_per_s")
    report.ratio("restore_over_memcpy", "restore", "memcpy", "gigabytes_per_s")
    report.ratio("recompute_over_restore", "recompute", "restore", "seconds")
    few = ["--seats", str(SEATS), "--ctx", "512"]
    many = ["--seats", str(AGENTS), "--ctx", "512", "--width", str(SEATS)]
    with (
        kernel(few) as small, agents(small, AGENTS) as on_few,
        kernel(many) as large, agents(large, AGENTS) as on_many,
        kernel(many) as wide, agents(wide, AGENTS) as on_many_wide,
    ):  # fmt: skip
        arms: dict[str, tuple[Machine, Fleet, int]] = {
            "few": (small, on_few, SEATS), "many": (large, on_many, SEATS),
            "many_wide": (wide, on_many_wide, AGENTS),
        }  # fmt: skip
        for repeat in range(repeats):
            order = list(arms) if repeat % 2 else list(reversed(arms))
            said = {}
            for arm in order:
                progress(f"repeat {repeat + 1}/{repeats}: {arm}")
                said[arm] = _throughput(report, arm, *arms[arm], seed + repeat)
            report.check("token_identical", said["few"] == said["many"] == said["many_wide"])
    report.ratio("few_seats_over_many", "few", "many", "tokens_per_s")
    report.ratio("few_seats_over_many_wide", "few", "many_wide", "tokens_per_s")
    return report


def _throughput(
    report: Report, arm: str, machine: Machine, fleet: Fleet, width: int, seed: int
) -> list[list[int]]:
    machine.schedule("rr", width=width)
    orders: list[Order] = [
        {"messages": chat(words(PROMPT_WORDS, 100 * seed + index)), "max_tokens": TOKENS,
         "temperature": 0.8, "seed": index}
        for index in range(AGENTS)
    ]  # fmt: skip
    results = fleet.run(orders)
    report.add(arm, tokens_per_s=rate(results), parks=sum(r["parks"] for r in results))
    return [result["tokens"] for result in results]


def _bandwidth(report: Report, seed: int, repeats: int) -> None:
    """Measure in a process like a core."""
    order = [sys.executable, "-P", "-m", "aios.bench.rig.parking", str(seed), str(repeats)]
    done = subprocess.run(order, stdout=subprocess.PIPE, env=engine_environment(), check=True)
    for line in done.stdout.splitlines():
        for arm, figures in json.loads(line).items():
            report.add(arm, **figures)
