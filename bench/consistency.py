"""``consistency``: agents alone, then together with fewer seats than agents; the same tokens?

Prompts of 30 to 1,500 tokens; sampled, not greedy, with a seed for each agent. Together they run
under rr with a quantum of 4 tokens, so each is parked and brought back again and again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .harness import WORKER, Machine, kernel, progress
from .report import Report

WORDS = (1, 40, 90, 180, 330, 600, 950, 1440)
"""Random words of each agent's prompt; a word is about one token."""
SEATS, QUANTUM, MAX_TOKENS = 3, 4, 40


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """The suite; ``repeats`` is how often both arms run."""
    import sacrebleu

    report = Report("consistency", {"seed": seed, "agents": len(WORDS), "seats": SEATS,
                                    "quantum": QUANTUM, "repeats": repeats})  # fmt: skip
    with kernel(["--seats", str(SEATS), "--quantum", str(QUANTUM), "--policy", "rr"]) as machine:
        for repeat in range(repeats):
            progress(f"repeat {repeat + 1}/{repeats}: alone")
            alone = [_wait(machine, _start(machine, i, seed + repeat)) for i in range(len(WORDS))]
            progress(f"repeat {repeat + 1}/{repeats}: together")
            agents = [_start(machine, i, seed + repeat) for i in range(len(WORDS))]
            together = [_wait(machine, agent) for agent in agents]
            same = [a["tokens"] == b["tokens"] for a, b in zip(alone, together, strict=True)]
            bleu = sacrebleu.corpus_bleu(
                [b["text"] for b in together], [[a["text"] for a in alone]]
            ).score
            report.add("alone", parks_min=min(a["parks"] for a in alone),
                       prompt_tokens_min=min(a["prompt_tokens"] for a in alone),
                       prompt_tokens_max=max(a["prompt_tokens"] for a in alone))  # fmt: skip
            report.add("together", parks_min=min(b["parks"] for b in together),
                       parks_max=max(b["parks"] for b in together), bleu=bleu,
                       identical_agents=sum(same))  # fmt: skip
            report.check("token_identical", all(same))
            report.check("every_agent_parked_twice", all(b["parks"] >= 2 for b in together))
    return report


def _start(machine: Machine, index: int, seed: int) -> Any:
    return machine.spawn(
        WORKER, "--words", str(WORDS[index]), "--seed", str(1000 * seed + index),
        "--temperature", "0.8", "--max-tokens", str(MAX_TOKENS), name=f"agent-{index}",
    )  # fmt: skip


def _wait(machine: Machine, agent: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(machine.wait(*agent))
    return said
