"""``throughput``: tokens/s of N agent processes, against a bare loop and against llama-server.

All start at once, and the clock stops with the last; prompts are new in each repeat. ``ours``: as
it comes out of the box, tuned; ``untuned``: with the original weights. ``bare``: llama_decode
alone, with our settings. ``server``: llama-server with its defaults, -np N, the same file, context
and threads, and N client processes. ``same``: llama-server with our KV types. ``long``: contexts of
900 tokens whose prompt is already computed, which measures decoding alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, http_clients, llama_server, rate, words
from aios.bench.rig.harness import bare_loop, kernel, progress
from aios.bench.rig.report import Report

COUNTS = {1: 48, 4: 32, 8: 24, 16: 12}
"""Agents → tokens that each generates."""
CONTEXT, LONG_WORDS, LONG_TOKENS = 2048, 880, 12
STORY = "Tell a long story about these words: "


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("throughput", {"seed": seed, "tokens": str(COUNTS), "context": CONTEXT,
                                   "repeats": repeats})  # fmt: skip
    for count in COUNTS:
        _count(report, count, seed, repeats)
    for count in COUNTS:
        for name, peer in (("raw", "bare"), ("llama_server", "server"),
                           ("llama_server_same", "same")):  # fmt: skip
            report.ratio(f"over_{name}_n{count}", f"ours_n{count}", f"{peer}_n{count}",
                         "tokens_per_s")  # fmt: skip
        report.ratio(f"untuned_over_llama_server_n{count}", f"untuned_n{count}",
                     f"server_n{count}", "tokens_per_s")  # fmt: skip
    report.ratio("long_over_llama_server_n8", "ours_long_n8", "server_long_n8", "tokens_per_s")
    return report


def _count(report: Report, count: int, seed: int, repeats: int) -> None:
    progress(f"{count} agents: loading")
    flags, tokens = ["--seats", str(count), "--ctx", str(CONTEXT)], COUNTS[count]
    with contextlib.ExitStack() as stack:
        machine = stack.enter_context(kernel(flags, tuned=True))
        model = machine.status().models[0]
        threads = model.threads
        fleets = {"ours": stack.enter_context(agents(machine, count))}
        untuned = stack.enter_context(kernel(flags))
        fleets["untuned"] = stack.enter_context(agents(untuned, count))
        for arm, kv in (("server", None), ("same", model.kv_type)):
            address = stack.enter_context(llama_server(count, CONTEXT, threads, kv))
            fleets[arm] = stack.enter_context(http_clients(address, count))
        bare = stack.enter_context(bare_loop(count, tuned=True))
        arms: dict[str, Callable[[list[str]], float]] = {
            name: functools.partial(_fleet, fleet, tokens) for name, fleet in fleets.items()
        }
        arms["bare"] = lambda texts: count * tokens / bare(texts, tokens)["seconds"]
        for repeat in range(repeats):
            progress(f"{count} agents: repeat {repeat + 1}/{repeats}")
            names = list(arms)
            for name in names if repeat % 2 else reversed(names):
                first = 1000 * (seed + repeat) + 100 * names.index(name)
                texts = [words(6, first + index) + ". " + STORY for index in range(count)]
                report.add(f"{name}_n{count}", tokens_per_s=arms[name](texts))
        if count == 8:
            _long(report, fleets, seed, repeats)


def _fleet(fleet: Fleet, tokens: int, texts: list[str]) -> float:
    orders: list[Order] = [
        {"messages": chat(text), "max_tokens": tokens, "temperature": 0.0} for text in texts
    ]
    return rate(fleet.run(orders))


def _long(report: Report, fleets: dict[str, Fleet], seed: int, repeats: int) -> None:
    common = words(LONG_WORDS, seed)
    texts = [f"{common} {words(10, seed + 1 + index)} {STORY}" for index in range(8)]
    for name in ("ours", "server"):
        progress(f"8 agents: long contexts of {name}")
        _fleet(fleets[name], LONG_TOKENS, texts)
    for repeat in range(repeats):
        for name in ("ours", "server") if repeat % 2 else ("server", "ours"):
            report.add(f"{name}_long_n8", tokens_per_s=_fleet(fleets[name], LONG_TOKENS, texts))
