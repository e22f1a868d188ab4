"""``overhead``: tokens/s of one agent through the whole stack against a bare llama_decode loop."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from aios.syscalls import paths

from .harness import WORKER, kernel, progress
from .report import Report

PROMPT = "Tell a long story about a river."
TOKENS, SEATS = 160, 8


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """The suite."""
    report = Report("overhead", {"tokens": TOKENS, "seats": SEATS, "repeats": repeats})
    with kernel(["--seats", str(SEATS)]) as machine, _raw() as raw:
        for repeat in range(repeats):
            progress(f"repeat {repeat + 1}/{repeats}")
            agent = machine.spawn(WORKER, "--prompt", PROMPT, "--max-tokens", str(TOKENS))
            said = json.loads(machine.wait(*agent))
            count = len(said["tokens"])
            report.add("stack", tokens_per_s=(count - 1) / said["decode_s"])
            report.add("raw", tokens_per_s=raw(count))
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
