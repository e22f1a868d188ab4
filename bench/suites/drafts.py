"""``drafts``: tokens/s with drafts over tokens/s without them, in two kernels with the tuned model.

``act``: N agents write JSON calls of tools in turns, each after the results of the turn before.
``rewrite``: an agent copies a text with a small change. ``free``: a story, where drafts should not
help and must not harm. The tokens of both kernels are compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, makespan_s, words
from aios.bench.rig.harness import kernel, progress
from aios.bench.rig.report import Report

SEATS, CONTEXT = 4, 2048
ARMS = ("on", "off")
ACT_TURNS = 4
ACT_SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["calls"],
    "properties": {"calls": {"type": "array", "minItems": 2, "maxItems": 2, "items": {
        "type": "object", "additionalProperties": False, "required": ["tool", "arguments"],
        "properties": {
            "tool": {"enum": ["search_documents", "read_document"]},
            "arguments": {
                "type": "object", "additionalProperties": False, "required": ["query", "limit"],
                "properties": {"query": {"type": "string", "maxLength": 24},
                               "limit": {"type": "integer", "minimum": 1, "maximum": 9}},
            },
        },
    }}},
}  # fmt: skip
ACT_SYSTEM = (
    'You find things out with tools. Write JSON: {"calls": [{"tool": NAME, "arguments": '
    '{"query": TEXT, "limit": NUMBER}}]}. Tools: search_documents, read_document.'
)


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("drafts", {"seed": seed, "seats": SEATS, "context": CONTEXT,
                               "repeats": repeats})  # fmt: skip
    flags = ["--seats", str(SEATS), "--ctx", str(CONTEXT)]
    same = True
    with contextlib.ExitStack() as stack:
        fleets = {
            arm: stack.enter_context(
                agents(stack.enter_context(kernel([*flags, "--drafts", arm], tuned=True)), SEATS)
            )
            for arm in ARMS
        }
        for repeat in range(repeats):
            progress(f"repeat {repeat + 1}/{repeats}")
            for name, load in LOADS.items():
                said = {}
                for arm in ARMS if repeat % 2 else reversed(ARMS):
                    rate, said[arm] = load(fleets[arm], seed + 10 * repeat)
                    report.add(f"{name}_{arm}", tokens_per_s=rate)
                same = same and said["on"] == said["off"]
    for name in LOADS:
        report.ratio(name, f"{name}_on", f"{name}_off", "tokens_per_s")
    report.check("token_identical", same)
    return report


Said = tuple[float, list[list[int]]]
"""Tokens/s, and the tokens of each reply."""


def _act(fleet: Fleet, count: int, seed: int) -> Said:
    """Have agents take turns; the clock stops between them."""
    talks = [chat(f"Find out about {words(3, seed + n)}.", ACT_SYSTEM) for n in range(count)]
    tokens, seconds, said = 0, 0.0, []
    for turn in range(ACT_TURNS):
        results = fleet.run([{**_order(talk, 96), "schema": ACT_SCHEMA} for talk in talks])
        tokens, seconds = tokens + sum(r["count"] for r in results), seconds + makespan_s(results)
        for talk, result in zip(talks, results, strict=True):
            said.append(result["tokens"])
            found = f"search_documents: {words(12, seed + turn)}"
            talk += [{"role": "assistant", "content": result["text"]},
                     {"role": "user", "content": found}]  # fmt: skip
    return tokens / seconds, said


def _texts(fleet: Fleet, prompts: Sequence[str], tokens: int) -> Said:
    results = fleet.run([_order(chat(prompt), tokens) for prompt in prompts])
    count = sum(r["count"] for r in results)
    return count / makespan_s(results), [r["tokens"] for r in results]


def _rewrite(fleet: Fleet, seed: int) -> Said:
    text = f"{words(60, seed).capitalize()}."
    ask = f"Repeat this text word for word, then stop.\n\n{text}"
    return _texts(fleet, [f"{ask}\n\nThe text again: {text}"], 96)


def _free(fleet: Fleet, count: int, seed: int) -> Said:
    ask = "Tell a long story about these words: "
    return _texts(fleet, [ask + words(6, seed + n) for n in range(count)], 64)


def _order(messages: list[dict[str, str]], tokens: int) -> Order:
    return {"messages": messages, "max_tokens": tokens, "temperature": 0.0}


LOADS: dict[str, Callable[[Fleet, int], Said]] = {
    "act_n1": lambda fleet, seed: _act(fleet, 1, seed),
    "act_n4": lambda fleet, seed: _act(fleet, 4, seed),
    "rewrite_n1": _rewrite,
    "free_n1": lambda fleet, seed: _free(fleet, 1, seed),
    "free_n4": lambda fleet, seed: _free(fleet, 4, seed),
}
