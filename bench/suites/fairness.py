"""``fairness``: one agent with eight parallel requests against seven with one each.

``fair`` and ``fifo`` serve them for some seconds; Jain's index compares the tokens that each agent
got. ``weights``: three agents with weights 1, 2 and 4 and eight requests each; the figure is the
worst relative error of their shares of the tokens.
"""

from __future__ import annotations

import contextlib
import select
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, words
from aios.bench.rig.harness import Machine, kernel, progress
from aios.bench.rig.report import Report
from aios.syscalls.types.process import ProcessList, PsRequest

SEATS, QUANTUM, PARALLEL, SINGLES = 8, 4, 8, 7
WARM_S, WINDOW_S = 2.0, {"fair": 8.0, "fifo": 8.0, "weights": 14.0}
WEIGHTS = (1.0, 2.0, 4.0)


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("fairness", {"seed": seed, "seats": SEATS, "quantum": QUANTUM,
                                 "repeats": repeats})  # fmt: skip
    with kernel(["--seats", str(SEATS), "--ctx", "2048", "--quantum", str(QUANTUM)]) as machine:
        for repeat in range(repeats):
            for arm, name in (("fair", "jain"), ("fifo", "jain_fifo")):
                progress(f"repeat {repeat + 1}/{repeats}: {arm}")
                machine.schedule(arm)
                with contextlib.ExitStack() as stack:
                    greedy = stack.enter_context(agents(machine, 1, name="greedy"))
                    modest = stack.enter_context(agents(machine, SINGLES, name="modest"))
                    served = _served(machine, arm, [(greedy, PARALLEL), (modest, 1)], seed + repeat)
                report.add(arm, tokens_least=min(served), tokens_most=max(served))
                report.figure(name, jain(served))
            progress(f"repeat {repeat + 1}/{repeats}: weights")
            machine.schedule("fair")
            report.figure("weighted_worst_error", _weights(report, machine, seed + repeat))
    return report


def jain(shares: Sequence[float]) -> float:
    """Return Jain's index: 1 if all shares are equal, 1/n if one agent has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def _weights(report: Report, machine: Machine, seed: int) -> float:
    with contextlib.ExitStack() as stack:
        fleets = [
            (stack.enter_context(agents(machine, 1, name=f"w{weight:g}", weight=weight)), PARALLEL)
            for weight in WEIGHTS
        ]
        served = _served(machine, "weights", fleets, seed)
    due = [sum(served) * weight / sum(WEIGHTS) for weight in WEIGHTS]
    report.add("weights", **{f"tokens_w{w:g}": s for w, s in zip(WEIGHTS, served, strict=True)})
    return max(abs(got - fair) / fair for got, fair in zip(served, due, strict=True))


def _served(
    machine: Machine, arm: str, fleets: Sequence[tuple[Fleet, int]], seed: int
) -> list[int]:
    """Return the tokens generated for each agent within the window, in the order of pids."""
    order: Order = {"messages": chat(f"{words(6, seed)}. Write a very long story."),
                    "max_tokens": 1800, "temperature": 1.0, "seed": seed}  # fmt: skip
    before = _pids(machine)
    for fleet, copies in fleets:
        for index in range(len(fleet)):
            fleet.send(index, {**order, "copies": copies})
    select.select([], [], [], WARM_S)
    machine.trace()
    select.select([], [], [], WINDOW_S[arm])
    tokens: Counter[int] = Counter()
    for piece in machine.trace().slices:
        for pid, _, drawn, _ in piece.rows:
            tokens[pid] += drawn
    return [tokens[pid] for pid in before]


def _pids(machine: Machine) -> list[int]:
    table: ProcessList = machine.connection.call("proc.ps", PsRequest())
    return [row.pid for row in table.processes]
