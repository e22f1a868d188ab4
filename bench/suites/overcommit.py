"""``overcommit``: agents need ten times more context than there are KV cells; do all finish?

``together``: all agents at once on few seats. ``alone``: one agent after another on a second
kernel. ``llama_server``: the same load on as many KV cells, with one slot for each agent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import agents, chat, http_clients, llama_server, makespan_s, words
from aios.bench.rig.harness import kernel, progress
from aios.bench.rig.report import Report

AGENTS, SEATS, CONTEXT, PROMPT_WORDS, TOKENS = 20, 2, 512, 430, 24


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    cells = SEATS * CONTEXT
    report = Report("overcommit", {"seed": seed, "agents": AGENTS, "kv_cells": cells,
                                   "repeats": repeats})  # fmt: skip
    flags = ["--seats", str(SEATS), "--ctx", str(CONTEXT), "--quantum", "8"]
    for repeat in range(repeats):
        orders = [_order(1000 * (seed + repeat) + index) for index in range(AGENTS)]
        progress(f"repeat {repeat + 1}/{repeats}: together")
        with kernel(flags) as machine, agents(machine, AGENTS) as fleet:
            threads = machine.status().models[0].threads
            together = fleet.run(orders, failures=True)
        progress(f"repeat {repeat + 1}/{repeats}: alone")
        with kernel(flags) as machine, agents(machine, 1) as fleet:
            alone = [fleet.run([order], failures=True)[0] for order in orders]
        progress(f"repeat {repeat + 1}/{repeats}: llama-server")
        with (
            llama_server(AGENTS, cells // AGENTS, threads, unified=True) as address,
            http_clients(address, AGENTS) as fleet,
        ):
            server = fleet.run(orders, failures=True)
        _add(report, "together", together)
        _add(report, "llama_server", server)
        report.check("no_failures", not any("error" in result for result in together))
        report.check("token_identical", all(
            a.get("tokens") == b.get("tokens") for a, b in zip(alone, together, strict=True)
        ))  # fmt: skip
    return report


def _add(report: Report, arm: str, results: list[dict[str, Any]]) -> None:
    done = [result for result in results if "error" not in result]
    report.add(
        arm, failed=len(results) - len(done), seconds=makespan_s(results),
        cells_wanted=sum(r["prompt_tokens"] + r["count"] for r in done),
        parks=sum(r.get("parks", 0) for r in done),
    )  # fmt: skip


def _order(seed: int) -> Order:
    return {"messages": chat(words(PROMPT_WORDS, seed)), "max_tokens": TOKENS,
            "temperature": 0.8, "seed": seed}  # fmt: skip
