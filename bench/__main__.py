"""``aios bench SUITE [--json] [--seed N] [--repeats N] [--plot DIR]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from aios.bench.rig import report
from aios.syscalls.errors import AiosError

SUITES = {
    "seed": ("three example agents: one after another, and together under fifo and rr", 5),
    "consistency": ("the same tokens alone and together, with many parks and killed cores", 1),
    "syscall": ("the null system call against a raw pyzmq echo", 7),
    "throughput": ("tokens/s of 1 to 16 agents against a bare loop and llama-server", 5),
    "constrained": ("texts held to a JSON schema, against free texts and llama-server", 5),
    "interactive": ("short interactive requests while eight batch agents hold every seat", 5),
    "start": ("seconds to the first token: nothing running, a new model, a running kernel", 5),
    "stall": ("the pause of four streams when a long prompt arrives", 5),
    "swap": ("parking and restoring a context: bandwidth, throughput, against recomputing", 5),
    "fairness": ("one agent with 8 parallel requests against 7 with one; weights 1:2:4", 5),
    "turnaround": ("short and long jobs under fifo, mlfq, fair and an oracle srtf", 5),
    "prefix": ("prompt tokens computed for 16 agents that share a system prompt", 5),
    "overcommit": ("agents that need ten times the KV cells there are: how many fail", 1),
    "sim": ("2,000 agents on a virtual clock, under every policy", 5),
    "managers": ("files, notes, tools and rights, against the bare libraries", 5),
    "busy": ("tokens/s of 8 agents beside endless loops of other programs", 5),
    "drafts": ("tokens/s with drafts over tokens/s without: tool calls, copies, free text", 5),
    "retrieval": ("recall@5 over 500 documents by keyword, by meaning, and mixed", 1),
    "overhead": ("tokens/s through the whole stack against a bare llama_decode loop", 9),
}
"""Suite → what it measures, default number of repeats."""


def main() -> int:
    """Run one suite. Exit code: 1 if a check failed or it could not run, 2 for wrong usage."""
    lines = "\n".join(f"  {name:<12} {text}" for name, (text, _) in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="aios bench", epilog=f"suites:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("suite", choices=SUITES, metavar="SUITE")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seed", type=int, default=0, help="seed of the workload (default: 0)")
    parser.add_argument("--repeats", type=int, help="runs of each arm")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write charts (PNG) to DIR")
    options = parser.parse_args()
    repeats = SUITES[options.suite][1] if options.repeats is None else options.repeats
    if repeats < 1 or options.seed < 0:
        parser.error("--repeats must be at least 1, --seed at least 0")
    suite: report.Suite = importlib.import_module(f"aios.bench.suites.{options.suite}").run
    try:
        result = suite(options.seed, repeats, options.plot)
    except ModuleNotFoundError as error:
        print(f"aios: {error.name} is not installed\n  pip install 'aiosd[bench]'", file=sys.stderr)
        return 1
    except (AiosError, RuntimeError) as error:
        print(f"aios: {error}", file=sys.stderr)
        return 1
    print(result.as_json() if options.json else result.as_text())
    return 0 if all(result.checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
