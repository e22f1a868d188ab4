"""``seed``: three example agents one after another, and together under fifo and rr.

In every arm all three are submitted at once. The waiting time of a call runs from its arrival at
the kernel to its first slice; the first call of an agent counts from its submission, so an agent
that waits for its turn to start is waiting. The ``_1`` arms allow one request at a time, which
shows time-slicing without batching.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

from aios import examples
from aios.bench.rig.harness import Machine, kernel, progress
from aios.bench.rig.report import Report, spread
from aios.syscalls.types.trace import RequestRecord, TraceReply

AGENTS = ("math_agent", "narrative_agent", "recommendation_agent")
MAX_TOKENS = 24
ARMS = {
    "sequential": ("fifo", 8, True),
    "fifo": ("fifo", 8, False),
    "rr": ("rr", 8, False),
    "fifo_1": ("fifo", 1, False),
    "rr_1": ("rr", 1, False),
}
"""Arm → policy, requests in a batch, whether agents run one after another."""


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("seed", {"seed": seed, "agents": len(AGENTS), "max_tokens": MAX_TOKENS,
                             "repeats": repeats, "seats": 8})  # fmt: skip
    with kernel() as machine:
        for repeat in range(repeats):
            digests = {}
            names = list(ARMS)
            for arm in names[repeat % len(names) :] + names[: repeat % len(names)]:
                progress(f"repeat {repeat + 1}/{repeats}: {arm}")
                start_s, trace = _arm(machine, arm, seed)
                digests[arm] = _digests(trace)
                report.add(arm, **_metrics(trace, start_s))
                if plot and repeat == repeats - 1:
                    _gantt(plot, arm, trace, start_s)
            report.check("token_identical", len(set(map(str, digests.values()))) == 1)
    for over in ("fifo", "rr"):
        for metric in ("wait", "turnaround"):
            name = f"mean_{metric}_{over}_over_sequential"
            report.ratio(name, over, "sequential", f"{metric}_mean_s")
    report.ratio("mean_wait_rr_1_over_sequential", "rr_1", "sequential", "wait_mean_s")
    last = f"wait_{AGENTS[-1]}_s"
    report.ratio("last_agent_wait_rr_over_sequential", "rr", "sequential", last)
    return report


def _arm(machine: Machine, arm: str, seed: int) -> tuple[float, TraceReply]:
    policy, width, one_by_one = ARMS[arm]
    machine.schedule(policy, 16, width)
    folder = Path(examples.__file__).parent
    start_s = time.monotonic()
    started = []
    for name in AGENTS:
        agent = machine.spawn(
            folder / f"{name}.py", "--seed", str(seed), "--max-tokens", str(MAX_TOKENS), name=name
        )
        started.append(agent)
        if one_by_one:
            machine.wait(*agent)
    for agent in started:
        machine.wait(*agent)
    return start_s, machine.trace()


def _by_agent(trace: TraceReply) -> dict[str, list[RequestRecord]]:
    calls: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in sorted(trace.requests, key=lambda r: r.timing.received_s):
        calls[record.name].append(record)
    return calls


def _digests(trace: TraceReply) -> list[tuple[str, list[str]]]:
    return sorted((name, [c.digest for c in calls]) for name, calls in _by_agent(trace).items())


def _metrics(trace: TraceReply, start_s: float) -> dict[str, float]:
    waits, readies, turnarounds, per_agent = [], [], [], {}
    for name, calls in _by_agent(trace).items():
        first = calls[0].timing
        wait = [first.received_s + first.wait_s - start_s, *(c.timing.wait_s for c in calls[1:])]
        end_s = max(call.timing.received_s + call.timing.turnaround_s for call in calls)
        waits += wait
        readies += [call.timing.ready_s for call in calls]
        turnarounds.append(end_s - start_s)
        per_agent[f"wait_{name}_s"] = sum(wait) / len(wait)
        per_agent[f"turnaround_{name}_s"] = end_s - start_s
    return {
        **spread("wait", waits), **spread("ready", readies), **spread("turnaround", turnarounds),
        **per_agent,
    }  # fmt: skip


def _gantt(folder: Path, arm: str, trace: TraceReply, start_s: float) -> None:
    """Draw when each agent had the model, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {record.pid: record.name for record in trace.requests}
    bars: dict[str, list[tuple[float, float]]] = {name: [] for name in AGENTS}
    for piece in trace.slices:
        for pid, *_ in piece.rows:
            if pid in names:
                bars[names[pid]].append((piece.start_s - start_s, piece.end_s - piece.start_s))
    figure, axes = pyplot.subplots(figsize=(9, 2.2))
    for row, name in enumerate(AGENTS):
        axes.broken_barh(bars[name], (row - 0.35, 0.7), color=f"C{row}", linewidth=0)
    axes.set_yticks(range(len(AGENTS)), AGENTS)
    axes.invert_yaxis()
    axes.set_xlabel("seconds since submission")
    axes.set_title(f"who has the model: {arm}")
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"seed-{arm}.png", dpi=120)
    pyplot.close(figure)
