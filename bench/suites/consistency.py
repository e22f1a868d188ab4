"""``consistency``: do agents get the same tokens alone and together, under any schedule?

Tokens are sampled, with a seed for each agent. ``together``: prompts of 30 to 1,500 tokens under rr
with a quantum of 4 tokens on three seats, so each is parked and restored many times. ``shaken``:
shorter prompts under random policies, quanta, chunks and batch widths, on several numbers of seats;
in every other round the core is killed at a random moment. A case is one agent in one round.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
from pathlib import Path
from typing import Any

from aios.bench.rig.client import Order
from aios.bench.rig.fleet import Fleet, agents, chat, words
from aios.bench.rig.harness import Machine, kernel, progress
from aios.bench.rig.report import Report
from aios.kernel.scheduler import policy
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import ModelList, SchedRequest

WORDS = (1, 40, 90, 180, 330, 600, 950, 1440)
"""Random words in each agent's prompt; a word is about one token."""
SHAKEN_WORDS = (1, 15, 35, 60, 95, 140, 200, 290)
SEATS, QUANTUM, TOKENS, CONTEXT = 3, 4, 40, 2048
SHAKEN_SEATS, ROUNDS = (1, 2, 3, 5, 8), 5
"""Seats of each kernel, and rounds on each; with those of ``together``, 208 cases."""
SHAKEN_TOKENS = 20


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite; ``repeats`` is the number of times all rounds run."""
    import sacrebleu

    cases = len(WORDS) * (1 + len(SHAKEN_SEATS) * ROUNDS) * repeats
    report = Report("consistency", {"seed": seed, "agents": len(WORDS), "cases": cases,
                                    "repeats": repeats})  # fmt: skip
    for repeat in range(repeats):
        orders = [_order(count, seed + repeat) for count in WORDS]
        with _machine(SEATS) as (machine, fleet):
            progress(f"repeat {repeat + 1}/{repeats}: alone")
            alone = [_alone(fleet, index, order) for index, order in enumerate(orders)]
            machine.connection.call("sched.set", SchedRequest("rr", QUANTUM))
            progress(f"repeat {repeat + 1}/{repeats}: together")
            together = fleet.run(orders)
        bleu = sacrebleu.corpus_bleu(
            [b["text"] for b in together], [[a["text"] for a in alone]]
        ).score
        report.add("alone", parks_min=min(a["parks"] for a in alone),
                   prompt_tokens_min=min(a["prompt_tokens"] for a in alone),
                   prompt_tokens_max=max(a["prompt_tokens"] for a in alone))  # fmt: skip
        report.add("together", parks_min=min(b["parks"] for b in together),
                   parks_max=max(b["parks"] for b in together), bleu=bleu,
                   identical_agents=_same(alone, together, TOKENS))  # fmt: skip
        report.check("token_identical", _same(alone, together, TOKENS) == len(WORDS))
        report.check("every_agent_parked_twice", all(b["parks"] >= 2 for b in together))
        orders = [_order(count, seed + repeat) for count in SHAKEN_WORDS]
        with _machine(SEATS) as (_, fleet):
            alone = [_alone(fleet, index, order) for index, order in enumerate(orders)]
        for seats in SHAKEN_SEATS:
            _shake(report, seats, orders, alone, random.Random(f"{seed + repeat}/{seats}"))
    return report


@contextlib.contextmanager
def _machine(seats: int) -> Any:
    with (
        kernel(["--seats", str(seats), "--ctx", str(CONTEXT)]) as machine,
        agents(machine, len(WORDS), name="agent") as fleet,
    ):
        yield machine, fleet


def _alone(fleet: Fleet, index: int, order: Order) -> dict[str, Any]:
    fleet.send(index, order)
    return fleet.receive(index)


def _shake(
    report: Report, seats: int, orders: list[Order], alone: list[dict[str, Any]],
    draw: random.Random,
) -> None:  # fmt: skip
    with _machine(seats) as (machine, fleet):
        for number in range(ROUNDS):
            chosen = draw.choice(sorted(policy.POLICIES))
            quantum, width = draw.choice((1, 3, 8, 32)), draw.randint(1, 8)
            chunk = draw.choice((0, 32, 100, 256))
            machine.schedule(chosen, quantum, width, chunk)
            kill_s = draw.uniform(0.1, 2.5) if number % 2 == 0 else None
            killed = f", core killed after {kill_s:.2f} s" if kill_s else ""
            progress(
                f"{seats} seats: {chosen}, quantum {quantum}, width {width}, chunk {chunk}{killed}"
            )
            for index, order in enumerate(orders):
                fleet.send(index, {**order, "max_tokens": SHAKEN_TOKENS})
            if kill_s:
                select.select([], [], [], kill_s)
                _kill_core(machine)
            said = [fleet.receive(index) for index in range(len(orders))]
            same = _same(alone, said, SHAKEN_TOKENS)
            report.add("shaken", identical_agents=same, parks=sum(r["parks"] for r in said),
                       core_killed=bool(kill_s))  # fmt: skip
            report.check("token_identical", same == len(orders))


def _kill_core(machine: Machine) -> None:
    models: ModelList = machine.connection.call("model.list", Empty())
    if models.models[0].core_os_pid:
        os.kill(models.models[0].core_os_pid, signal.SIGKILL)


def _same(alone: list[dict[str, Any]], other: list[dict[str, Any]], tokens: int) -> int:
    """Count the agents whose first tokens agree."""
    return sum(
        a["tokens"][:tokens] == b["tokens"][:tokens] for a, b in zip(alone, other, strict=True)
    )


def _order(count: int, seed: int) -> Order:
    text = "Tell a long story about a river. " + words(count, 10_000 * seed + count)
    return {"messages": chat(text), "max_tokens": TOKENS, "temperature": 0.8,
            "seed": 10_000 * seed + count}  # fmt: skip
