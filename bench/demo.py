"""``make demo``: three agents share the real model; then a table of their times.

Three agents on two seats, so they are parked and restored while you watch.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from aios import examples
from aios.bench.rig.harness import Machine, kernel
from aios.bench.suites.seed import AGENTS
from aios.cli.out import complain, table
from aios.syscalls.errors import AiosError
from aios.syscalls.types.trace import RequestRecord

FLAGS = ("--seats", "2", "--quantum", "8", "--policy", "rr")


def main() -> int:
    """Run the demo; return exit code 0 if all three agents succeed."""
    print(f"starting a kernel: aiosd {' '.join(FLAGS)}")
    print("loading the model (the first load also tests exactness, about 10 s) …")
    try:
        with kernel(FLAGS) as machine:
            return _show(machine)
    except (AiosError, RuntimeError) as error:
        complain(str(error), "set up first: make setup")
        return 1


def _show(machine: Machine) -> int:
    (model,) = machine.status().models
    print(f"{model.description}; {model.seats} seats, {model.device}, {model.threads} threads")
    print(f"exactness: {model.exact}\n\naios run {' '.join(f'{name}.py' for name in AGENTS)}\n")
    folder = Path(examples.__file__).parent
    files = [str(folder / f"{name}.py") for name in AGENTS]
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-P", "-m", "aios.cli", "run", *files]).returncode
    calls: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in machine.trace().requests:
        calls[record.name].append(record)
    print("\nseconds in each state, summed over the calls of each agent:\n")
    table(
        ["agent", "calls>", "prompt tokens>", "generated>", "waiting>", "ready>", "turnaround>",
         "slices>", "parked>"],
        [_row(name, calls[name]) for name in AGENTS if name in calls],
    )  # fmt: skip
    print(
        "\nwaiting: from the call to its first slice; ready: able to run but not chosen;"
        "\nturnaround: from the call to its reply. More: aios bench seed"
    )
    return code


def _row(name: str, calls: list[RequestRecord]) -> list[str]:
    times = [call.timing for call in calls]
    return [
        name, str(len(calls)), str(sum(call.prompt_tokens for call in calls)),
        str(sum(call.completion_tokens for call in calls)),
        f"{sum(t.wait_s for t in times):.2f}", f"{sum(t.ready_s for t in times):.2f}",
        f"{sum(t.turnaround_s for t in times):.2f}", str(sum(t.slices for t in times)),
        str(sum(t.parks for t in times)),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
