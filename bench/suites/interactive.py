"""``interactive``: eight long batch agents hold every seat; short interactive requests arrive.

``ours``: the default policy and classes. ``fifo``: the same kernel under fifo, all in one class.
``llama_server``: the same load over HTTP, -np 8. ``quiet``: ours without the interactive requests,
which shows what they cost the batch agents.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, http_clients, llama_server, rate, words
from aios.bench.rig.harness import kernel, progress
from aios.bench.rig.report import Report

BATCH, VISITORS = 8, 4
BATCH_TOKENS, SHORT_TOKENS, CONTEXT = 192, 6, 1024
ARRIVALS_S = 5.0
"""Visitors arrive at random times within this many seconds of the batch."""
_TRIES = 5
"""Limit on tries of one load: it is repeated with other prompts if a batch request ended early,
because a free seat means that no visitor has to wait."""


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("interactive", {"seed": seed, "batch_agents": BATCH, "visitors": VISITORS,
                                    "batch_tokens": BATCH_TOKENS, "repeats": repeats})  # fmt: skip
    with contextlib.ExitStack() as stack:
        machine = stack.enter_context(kernel(["--seats", str(BATCH), "--ctx", str(CONTEXT)]))
        threads = machine.status().models[0].threads
        fleets: dict[str, tuple[Fleet, Fleet]] = {}
        for arm, classes in (("ours", ("batch", "interactive")), ("fifo", ("normal", "normal"))):
            batch, visitors = (
                stack.enter_context(agents(machine, count, name=f"{arm}-{kind}", klass=klass))
                for count, kind, klass in zip(
                    (BATCH, VISITORS), ("batch", "visitor"), classes, strict=True
                )
            )
            fleets[arm] = batch, visitors
        fleets["quiet"] = fleets["ours"]
        address = stack.enter_context(llama_server(BATCH, CONTEXT, threads))
        fleets["llama_server"] = (
            stack.enter_context(http_clients(address, BATCH)),
            stack.enter_context(http_clients(address, VISITORS)),
        )
        for repeat in range(repeats):
            for turn, (arm, fleet) in enumerate(fleets.items()):
                progress(f"repeat {repeat + 1}/{repeats}: {arm}")
                machine.schedule("fifo" if arm == "fifo" else "fair")
                draw = random.Random(seed + repeat)
                arrivals = [draw.uniform(0.5, ARRIVALS_S) for _ in range(VISITORS)]
                first = 10_000 * (seed + repeat) + 1000 * turn
                _measure(report, arm, fleet, [] if arm == "quiet" else arrivals, first)
    report.ratio("ttft_p99_fifo_over_ours", "fifo", "ours", "ttft_p99_s")
    report.ratio("ttft_p99_llama_server_over_ours", "llama_server", "ours", "ttft_p99_s")
    report.ratio("batch_throughput_kept", "ours", "quiet", "batch_tokens_per_s")
    return report


def _measure(
    report: Report, arm: str, fleet: tuple[Fleet, Fleet], arrivals: Sequence[float], seed: int
) -> None:
    for attempt in range(_TRIES):
        came, done = _load(fleet, arrivals, seed + 200 * attempt)
        failed = [result for result in (*came, *done) if "error" in result]
        if failed or all(result["count"] >= BATCH_TOKENS for result in done):
            break
    report.check("no_failures", arm == "llama_server" or not failed)
    metrics = {"batch_tokens_per_s": rate([r for r in done if "error" not in r])}
    if arrivals:
        metrics |= _ttft([r for r in came if "error" not in r])
    report.add(arm, **metrics)


def _load(
    fleet: tuple[Fleet, Fleet], arrivals: Sequence[float], seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run one load; return the results of the visitors and of the batch."""
    batch, visitors = fleet
    start_s = time.monotonic()
    for index in range(BATCH):
        batch.send(index, _order(seed + index, BATCH_TOKENS))
    for index, after_s in enumerate(arrivals):
        order = _order(seed + 100 + index, SHORT_TOKENS)
        visitors.send(index, {**order, "stream": True, "at_s": start_s + after_s})
    came = [visitors.receive(index, failures=True) for index in range(len(arrivals))]
    done = [batch.receive(index, failures=True) for index in range(BATCH)]
    return came, done


def _ttft(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the times to the first text; with few visitors the p99 is the maximum."""
    waits = sorted(result["times_s"][0] - result["start_s"] for result in results)
    return {"ttft_p50_s": waits[len(waits) // 2], "ttft_p99_s": waits[-1]}


def _order(seed: int, tokens: int) -> Order:
    text = f"{words(6, seed)}. Write a very long story with these words."
    return {"messages": chat(text), "max_tokens": tokens, "temperature": 0.0}
