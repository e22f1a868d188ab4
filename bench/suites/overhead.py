"""``overhead``: tokens/s of one agent through the whole stack against a bare llama_decode loop.

Each repeat runs stack, raw, raw, stack, so a machine that drifts affects both arms alike. ``off``:
the stack with ``--exact off``, compared with the second run of the stack, which shows the cost of
exactness. Then a mix of prompts and batches, as agents make it, on the bare engine with the
settings of each rung of exactness, over ``f16``, llama.cpp's default KV type.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import harmonic_mean

from aios.bench.rig.harness import WORKER, Machine, bare_loop, kernel, progress
from aios.bench.rig.report import Report
from aios.hw.engine.engine import Rung
from aios.hw.models import names
from aios.hw.tuning.candidate import ORIGINAL, Candidate, TuningJob, score
from aios.hw.tuning.exact_settings import RUNGS, UNTESTED
from aios.hw.tuning.job_process import Order, run_apart

PROMPT = "Tell a long story about a river."
TOKENS, SEATS = 96, 8
F16 = next(rung for rung in UNTESTED if rung.kv_type == "f16")
LOOKS = 5
"""Measurements of each rung, independent of ``--repeats``."""


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
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
            threads = exact.status().models[0].threads
    report.ratio("stack_over_raw", "stack", "raw", "tokens_per_s")
    _rungs(report, threads)
    return report


def _rungs(report: Report, threads: int) -> None:
    arms = {"f16": F16, **{rung.name: rung for rung in RUNGS}}
    for repeat in range(LOOKS):
        progress(f"rungs of exactness: repeat {repeat + 1}/{LOOKS}")
        for name, rung in arms.items() if repeat % 2 else reversed(arms.items()):
            report.add(name, mix_tokens_per_s=_look(rung, threads))
    for name in list(arms)[1:]:
        report.ratio(f"{name}, over f16", name, "f16", "mix_tokens_per_s")


def _look(rung: Rung, threads: int) -> float:
    """Return tokens/s of the mix, measured in a separate process. Raises RuntimeError."""
    path = names.resolve("default", Path())
    with tempfile.TemporaryDirectory(prefix="aios-rungs-") as cache:
        job = TuningJob(kind="speed", candidate=Candidate(ORIGINAL, rung, threads))
        result = run_apart(Order(job=job, source=path, path=path, seats=SEATS, cache_dir=cache))
    if result.failed:
        raise RuntimeError(f"{rung.name}: {result.failed}")
    return score(result)
