"""``swap``: what parking a context costs, in bandwidth, against recomputing it, and in throughput.

``memcpy``: numpy's copy of the same bytes within the same arena. ``park`` and ``restore``: the
core's own operations, from seat to image and back; a parked image's checksum is taken beside what
the core does next, a restored one's is included. All with cold caches, as they are in life.
``recompute``: the prefill that a restore saves. ``few`` and ``many``: sixteen agents on 4 and on
16 seats, batches of 4 in both, so that parking is all that differs; ``many_wide``: in batches of
16, for comparison.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aios.hw import models
from aios.hw.arena import Arena
from aios.hw.engine import EngineSettings, Row
from aios.hw.exact import open_engine
from aios.hw.image import image_bytes
from aios.hw.messages import Op
from aios.hw.operate import Operator
from aios.syscalls import paths

from .client import Order
from .fleet import Fleet, agents, chat, rate, words
from .harness import Machine, kernel, progress
from .report import Report

CONTEXT_TOKENS, LOOPS = 768, 9
_COLD = np.zeros(12 << 20, np.int64)
"""More than any cache holds."""
AGENTS, SEATS, TOKENS, PROMPT_WORDS = 16, 4, 24, 100


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """The suite."""
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
    settings = EngineSettings(
        path=models.resolve("default", Path()), seats=2, context_tokens=1024,
        cache_dir=str(paths.cache_dir()), look_up_tuned=False,
    )  # fmt: skip
    engine = open_engine(settings)
    arena = Arena(4 * image_bytes(engine.info, CONTEXT_TOKENS))
    operator = Operator(engine, arena)
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1000, 20_000, CONTEXT_TOKENS).astype(np.int32)
    room = image_bytes(engine.info, CONTEXT_TOKENS)
    place = arena.allocate(room)
    copies = [arena.allocate(room), arena.allocate(room)]
    assert place and copies[0] and copies[1]
    save = Op("save", 0, place.offset, place.size_bytes, CONTEXT_TOKENS)
    load = Op("load", 1, place.offset, place.size_bytes, CONTEXT_TOKENS)
    source, target = (arena.view[c.offset : c.offset + c.size_bytes] for c in copies if c)
    for _ in range(repeats):
        engine.trim(0, 0)
        start_s = time.perf_counter()
        for at in range(0, CONTEXT_TOKENS, 128):
            engine.decode([Row(0, at, tokens[at : at + 128], False)])
        report.add("recompute", seconds=time.perf_counter() - start_s)
        size = operator.operate(save).size_bytes
        copy = functools.partial(np.copyto, target[:size], source[:size])
        times: dict[str, list[float]] = {"memcpy": [], "park": [], "restore": []}
        for _ in range(LOOPS):
            _timed(times["memcpy"], copy)
            _timed(times["park"], lambda: operator.operate(save))
            operator.wait()
            engine.trim(1, 0)
            _timed(times["restore"], lambda: operator.operate(load))
        for arm, seconds in times.items():
            taken = statistics.median(seconds)
            report.add(arm, seconds=taken, gigabytes_per_s=size / taken / 1e9)
    operator.close()
    engine.close()
    arena.close()


def _timed(times: list[float], act: Callable[[], object]) -> None:
    """With cold caches, as after a step of decoding for others."""
    np.add(_COLD, 1, out=_COLD)
    start_s = time.perf_counter()
    act()
    times.append(time.perf_counter() - start_s)
