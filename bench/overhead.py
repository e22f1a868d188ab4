"""``overhead``: tokens/s of one agent through the whole stack against a bare llama_decode loop.

Each repeat runs stack, raw, raw, stack: a machine that drifts meets both arms alike. ``off``: the
stack with ``--exact off``, beside the second run of the stack, to see what exactness costs.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import harmonic_mean

from .harness import WORKER, Machine, bare_loop, kernel, progress
from .report import Report

PROMPT = "Tell a long story about a river."
TOKENS, SEATS = 96, 8


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """The suite."""
    report = Report("overhead", {"tokens": TOKENS, "seats": SEATS, "repeats": repeats})
    flags = ["--seats", str(SEATS)]
    with (
        kernel(flags) as exact, kernel([*flags, "--exact", "off"]) as off, bare_loop(SEATS) as bare,
    ):  # fmt: skip

        def stack(machine: Machine) -> float:
            agent = machine.spawn(WORKER, "--prompt", PROMPT, "--max-tokens", str(TOKENS))
            said = json.loads(machine.wait(*agent))
            return float((len(said["tokens"]) - 1) / said["decode_s"])

        def raw() -> float:
            return (TOKENS - 1) / bare([PROMPT], TOKENS)["decode_s"]

        for repeat in range(repeats):
            progress(f"repeat {repeat + 1}/{repeats}")
            first, *bare_speeds, second = stack(exact), raw(), raw(), stack(exact)
            report.add("stack", tokens_per_s=harmonic_mean([first, second]))
            report.add("raw", tokens_per_s=harmonic_mean(bare_speeds))
            report.add("off", tokens_per_s=stack(off))
            report.figure("exact_over_off", second / report.arms["off"]["tokens_per_s"][-1])
    report.ratio("stack_over_raw", "stack", "raw", "tokens_per_s")
    return report
