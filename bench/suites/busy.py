"""``busy``: tokens/s of 8 agents beside endless loops of other programs, over tokens/s alone.

``ours``: the tuned model, as it comes out of the box, but without drafts: their gain depends on the
text. ``spinning``: the same with a fixed number of
threads, which always spin: what an idle machine can reach. ``server``: llama-server with its
defaults. Loops are plain processes of normal priority, ended after each run; for ``agents_kept``
they are agents of the same kernel.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, http_clients, llama_server, rate, words
from aios.bench.rig.harness import WORKER, Machine, kernel, progress
from aios.bench.rig.report import Report
from aios.syscalls.types.process import RefRequest, SignalRequest

LOOP = WORKER.with_name("loop.py")
AGENTS, CONTEXT, TOKENS = 8, 2048, 48
SLOW_TOKENS = 4
"""Tokens of each agent of llama-server beside loops, where a step takes seconds."""
LOOPS = (0, 1, 2)
ARMS = {0: ("ours", "spinning"), 1: ("ours",), 2: ("ours", "server")}
SETTLE_S = 1.5
"""Time for which loops run, or have ended, before the clock starts."""


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("busy", {"seed": seed, "agents": AGENTS, "tokens": TOKENS,
                             "repeats": repeats})  # fmt: skip
    flags = ["--seats", str(AGENTS), "--ctx", str(CONTEXT), "--drafts", "off"]
    with contextlib.ExitStack() as stack:
        machine = stack.enter_context(kernel(flags, tuned=True))
        pinned = str(machine.status().models[0].threads)
        fixed = stack.enter_context(kernel([*flags, "--threads", pinned], tuned=True))
        address = stack.enter_context(llama_server(AGENTS, CONTEXT, int(pinned)))
        fleets = {
            "ours": stack.enter_context(agents(machine, AGENTS)),
            "spinning": stack.enter_context(agents(fixed, AGENTS)),
            "server": stack.enter_context(http_clients(address, AGENTS)),
        }
        for repeat in range(repeats):
            for count in LOOPS:
                progress(f"repeat {repeat + 1}/{repeats}: {count} loops")
                with _loops(count):
                    for name in ARMS[count]:
                        tokens = SLOW_TOKENS if count and name == "server" else TOKENS
                        first = 1000 * (seed + repeat) + 100 * count
                        report.add(f"{name}_{count}",
                                   tokens_per_s=_rate(fleets[name], tokens, first))  # fmt: skip
                if count:
                    with _looping_agents(machine, count):
                        speed = _rate(fleets["ours"], TOKENS, 1000 * (seed + repeat) + 50 * count)
                        report.add(f"agents_{count}", tokens_per_s=speed)
    for count in LOOPS[1:]:
        report.ratio(f"kept_{count}", f"ours_{count}", "ours_0", "tokens_per_s")
        report.ratio(f"agents_kept_{count}", f"agents_{count}", "ours_0", "tokens_per_s")
    report.ratio("idle_over_spinning", "ours_0", "spinning_0", "tokens_per_s")
    report.ratio("over_llama_server_2", "ours_2", "server_2", "tokens_per_s")
    kept = [*report.ratios["kept_1"], *report.ratios["kept_2"]]
    report.check("no_run_under_0.35", min(kept) >= 0.35)
    return report


def _rate(fleet: Fleet, tokens: int, seed: int) -> float:
    orders: list[Order] = [
        {"messages": chat(f"Tell a long story about {words(6, seed + index)}."),
         "max_tokens": tokens, "temperature": 0.0}
        for index in range(AGENTS)
    ]  # fmt: skip
    return rate(fleet.run(orders))


@contextlib.contextmanager
def _loops(count: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, str(LOOP)]) for _ in range(count)]
    time.sleep(SETTLE_S)
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _looping_agents(machine: Machine, count: int) -> Iterator[None]:
    started = [machine.spawn(LOOP, name=f"loop-{index}")[0] for index in range(count)]
    time.sleep(SETTLE_S)
    try:
        yield
    finally:
        for agent in started:
            machine.connection.call("proc.signal", SignalRequest(str(agent.pid), "kill"))
            machine.connection.call("proc.wait", RefRequest(str(agent.pid)))
