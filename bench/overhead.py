"""``overhead``: tokens/s of one agent through the whole stack against a bare llama_decode loop.

Each repeat runs stack, raw, raw, stack: a machine that drifts meets both arms alike.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import harmonic_mean

from aios.syscalls import paths

from .harness import WORKER, kernel, progress
from .report import Report

PROMPT = "Tell a long story about a river."
TOKENS, SEATS = 96, 8


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """The suite."""
    report = Report("overhead", {"tokens": TOKENS, "seats": SEATS, "repeats": repeats})
    with kernel(["--seats", str(SEATS)]) as machine, _raw() as raw:

        def stack(count: int) -> float:
            agent = machine.spawn(WORKER, "--prompt", PROMPT, "--max-tokens", str(count))
            said = json.loads(machine.wait(*agent))
            return float((len(said["tokens"]) - 1) / said["decode_s"])

        for repeat in range(repeats):
            progress(f"repeat {repeat + 1}/{repeats}")
            speeds = [arm(TOKENS) for arm in (stack, raw, raw, stack)]
            report.add("stack", tokens_per_s=harmonic_mean([speeds[0], speeds[3]]))
            report.add("raw", tokens_per_s=harmonic_mean(speeds[1:3]))
    report.ratio("stack_over_raw", "stack", "raw", "tokens_per_s")
    return report


@contextlib.contextmanager
def _raw() -> Iterator[Callable[[int], float]]:
    """The yardstick's process; call it for tokens/s over so many tokens."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "aios.bench.rawloop", str(SEATS), str(paths.cache_dir())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout
    try:
        stdout.readline()

        def measure(count: int) -> float:
            stdin.write(json.dumps({"prompt": PROMPT, "tokens": count}) + "\n")
            stdin.flush()
            return float(json.loads(stdout.readline())["tokens_per_s"])

        yield measure
    finally:
        stdin.close()
        process.wait()
        stdout.close()
