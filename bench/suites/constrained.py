"""``constrained``: tokens/s of texts held to a JSON schema, over free texts and over llama-server.

``free``: a story. ``schema``: a list of records with names, numbers, choices and short texts, about
as many tokens. ``server``: llama-server with the same schema. One agent, and eight at once.
``mask_p99_ms``: the time to find the allowed tokens, at every position of the texts.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, http_clients, llama_server, rate, words
from aios.bench.rig.harness import kernel, progress
from aios.bench.rig.report import Report
from aios.hw.engine.engine import Constraint, EngineSettings, Rung
from aios.hw.models import names

COUNTS, SEATS, CONTEXT = (1, 8), 8, 2048
FREE_TOKENS, MOST_TOKENS = 128, 400
RECORD: dict[str, Any] = {
    "type": "object", "additionalProperties": False,
    "required": ["name", "age", "city", "member", "about"],
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 20},
        "age": {"type": "integer", "minimum": 18, "maximum": 99},
        "city": {"enum": ["Berlin", "Lisbon", "Nairobi", "Osaka", "Quito"]},
        "member": {"type": "boolean"},
        "about": {"type": "string", "minLength": 10, "maxLength": 60},
    },
}  # fmt: skip
SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["people"],
    "properties": {"people": {"type": "array", "minItems": 3, "maxItems": 3, "items": RECORD}},
}  # fmt: skip


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("constrained", {"seed": seed, "free_tokens": FREE_TOKENS, "context": CONTEXT,
                                    "repeats": repeats})  # fmt: skip
    replies: list[list[int]] = []
    with contextlib.ExitStack() as stack:
        machine = stack.enter_context(kernel(["--seats", str(SEATS), "--ctx", str(CONTEXT)]))
        threads = machine.status().models[0].threads
        ours = stack.enter_context(agents(machine, SEATS))
        address = stack.enter_context(llama_server(SEATS, CONTEXT, threads))
        server = stack.enter_context(http_clients(address, SEATS))
        for fleet in (ours, server):  # the first schema takes longer
            _schema(Report("", {}), "first", fleet, 1, seed)
        for repeat in range(repeats):
            progress(f"repeat {repeat + 1}/{repeats}")
            for count in COUNTS if repeat % 2 else reversed(COUNTS):
                first = 1000 * (seed + repeat) + 100 * count
                _free(report, ours, count, first)
                replies += _schema(report, f"schema_n{count}", ours, count, first)
                if count == SEATS:
                    _schema(report, f"server_n{count}", server, count, first)
    for count in COUNTS:
        report.ratio(f"schema_over_free_n{count}", f"schema_n{count}", f"free_n{count}",
                     "tokens_per_s")  # fmt: skip
    report.ratio(f"over_llama_server_n{SEATS}", f"schema_n{SEATS}", f"server_n{SEATS}",
                 "tokens_per_s")  # fmt: skip
    report.figure("mask_p99_ms", _mask_p99_ms(replies))
    return report


def _free(report: Report, fleet: Fleet, count: int, first: int) -> None:
    orders: list[Order] = [
        {"messages": chat(f"Tell a long story about these words: {words(6, first + n)}."),
         "max_tokens": FREE_TOKENS, "temperature": 0.0}
        for n in range(count)
    ]  # fmt: skip
    report.add(f"free_n{count}", tokens_per_s=rate(fleet.run(orders)))


def _schema(report: Report, arm: str, fleet: Fleet, count: int, first: int) -> list[list[int]]:
    """Run an arm with the schema; return the tokens of the texts, which are checked."""
    ask = "Invent three people, as JSON with name, age, city, member and about. Words: "
    orders: list[Order] = [
        {"messages": chat(ask + words(6, first + n)), "max_tokens": MOST_TOKENS,
         "temperature": 0.0, "schema": SCHEMA}
        for n in range(count)
    ]  # fmt: skip
    results = fleet.run(orders)
    report.add(arm, tokens_per_s=rate(results))
    report.check("all_valid", all(_is_valid(result["text"]) for result in results))
    return [result["tokens"] for result in results]


def _is_valid(text: str) -> bool:
    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def _mask_p99_ms(replies: list[list[int]]) -> float:
    """Follow the texts again, and time each mask."""
    from aios.hw.engine.llama import LlamaEngine

    path = names.resolve("default", Path())
    engine = LlamaEngine(EngineSettings(path=path, seats=1, context_tokens=256), Rung("q8_0"))
    times_s = []
    try:
        for tokens in replies:
            grammar = engine.grammar(Constraint("json_schema", json.dumps(SCHEMA)))
            for token in tokens:
                logits = np.zeros(engine.info.vocab_size, np.float32)
                start_s = time.perf_counter()
                grammar.mask(logits)
                times_s.append(time.perf_counter() - start_s)
                grammar.accept(token)
    finally:
        engine.close()
    return sorted(times_s)[int(0.99 * len(times_s))] * 1000
