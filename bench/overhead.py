"""``overhead``: tokens/s of one agent through the whole stack against a bare llama_decode loop.

Each repeat runs stack, raw, raw, stack: a machine that drifts meets both arms alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import harmonic_mean

from .harness import WORKER, bare_loop, kernel, progress
from .report import Report

PROMPT = "Tell a long story about a river."
TOKENS, SEATS = 96, 8


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """The suite."""
    report = Report("overhead", {"tokens": TOKENS, "seats": SEATS, "repeats": repeats})
    with kernel(["--seats", str(SEATS)]) as machine, bare_loop(SEATS) as bare:

        def stack(count: int) -> float:
            agent = machine.spawn(WORKER, "--prompt", PROMPT, "--max-tokens", str(count))
            said = json.loads(machine.wait(*agent))
            return float((len(said["tokens"]) - 1) / said["decode_s"])

        def raw(count: int) -> float:
            return (count - 1) / bare([PROMPT], count)["decode_s"]

        for repeat in range(repeats):
            progress(f"repeat {repeat + 1}/{repeats}")
            speeds = [arm(TOKENS) for arm in (stack, raw, raw, stack)]
            report.add("stack", tokens_per_s=harmonic_mean([speeds[0], speeds[3]]))
            report.add("raw", tokens_per_s=harmonic_mean(speeds[1:3]))
    report.ratio("stack_over_raw", "stack", "raw", "tokens_per_s")
    return report
