"""``prefix``: sixteen agents share a long system prompt; how many prompt tokens are computed?

``one``: one agent alone with a new prompt. ``together``: sixteen at once, with another new system
prompt of the same length. ``token_identical``: each agent gets the tokens that it gets from a model
that was just loaded and has nothing cached.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, words
from aios.bench.rig.harness import Machine, kernel, progress
from aios.bench.rig.report import Report
from aios.syscalls.types.kernel import ModelRequest

AGENTS, SEATS, SYSTEM_WORDS, TOKENS = 16, 8, 1000, 8
_SETTLE: Order = {"messages": chat("Hi."), "max_tokens": 1, "temperature": 0.0}
"""A barrier: its reply means that all earlier calls are in the trace. It computes one token."""
COMPARED = 4
"""Number of agents that also run alone, each on a model that was just loaded."""


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("prefix", {"seed": seed, "agents": AGENTS, "seats": SEATS,
                               "system_words": SYSTEM_WORDS, "repeats": repeats})  # fmt: skip
    with (
        kernel(["--seats", str(SEATS), "--ctx", "2048"]) as machine,
        agents(machine, AGENTS) as fleet,
    ):
        for repeat in range(repeats):
            progress(f"repeat {repeat + 1}/{repeats}: one")
            _measure(report, machine, fleet, "one", 1, 2 * (seed + repeat))
            progress(f"repeat {repeat + 1}/{repeats}: together")
            said = _measure(report, machine, fleet, "together", AGENTS, 2 * (seed + repeat) + 1)
            if not repeat:
                progress("the same agents alone")
                report.check("token_identical", _same(machine, fleet, said, 2 * seed + 1))
    report.ratio("prefill_over_one_agent", "together", "one", "prompt_tokens_computed")
    return report


def _measure(
    report: Report, machine: Machine, fleet: Fleet, arm: str, count: int, seed: int
) -> list[dict[str, Any]]:
    fleet.run([_SETTLE])
    machine.trace()
    said = fleet.run([_order(seed, index) for index in range(count)])
    fleet.run([_SETTLE])
    computed = sum(row[3] for piece in machine.trace().slices for row in piece.rows)
    report.add(
        arm, prompt_tokens=sum(result["prompt_tokens"] for result in said),
        prompt_tokens_computed=computed,
        cached_tokens=sum(result["cached_tokens"] for result in said),
        seconds=max(r["end_s"] for r in said) - min(r["start_s"] for r in said),
    )  # fmt: skip
    return said


def _same(machine: Machine, fleet: Fleet, said: list[dict[str, Any]], seed: int) -> bool:
    for index in range(COMPARED):
        machine.connection.call("model.unload", ModelRequest("default"))
        alone = fleet.run([_order(seed, index)])[0]
        if alone["tokens"] != said[index]["tokens"] or alone["cached_tokens"]:
            return False
    return True


def _order(seed: int, index: int) -> Order:
    """Make the order of one agent: a system prompt by ``seed``, its own words by ``index``."""
    system = words(SYSTEM_WORDS, 77_000 + seed)
    text = words(3, 1000 * seed + index)
    return {"messages": chat(text, system), "max_tokens": TOKENS, "temperature": 0.8,
            "seed": index}  # fmt: skip
