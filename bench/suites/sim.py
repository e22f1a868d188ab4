"""``sim``: 2,000 agents from a seeded workload on the simulated machine, under every policy.

The scheduler is the kernel's own; see simcore.py. ``srtf_oracle`` knows the length of each reply.
``slice_cost_2000_over_200_idle``: the kernel's time per slice with 2,000 idle agents over that with
200. ``mlfq_share_of_oracle_gain``: mlfq's gain over fifo in mean turnaround, as a share of the
oracle's.
"""

from __future__ import annotations

import random
import statistics
from pathlib import Path

from aios.bench.rig.harness import progress
from aios.bench.rig.report import Report
from aios.bench.rig.simcore import Job, Simulation
from aios.kernel.scheduler import policy

AGENTS, SEATS, LOAD_S = 2000, 16, 800.0


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("sim", {"seed": seed, "agents": AGENTS, "seats": SEATS, "repeats": repeats})
    arms = {name: (name, False) for name in policy.POLICIES} | {"srtf_oracle": ("srtf", True)}
    for repeat in range(repeats):
        jobs = trace(AGENTS, seed + repeat)
        for arm, (name, oracle) in arms.items():
            progress(f"repeat {repeat + 1}/{repeats}: {arm}")
            simulation = Simulation(name, SEATS, oracle=oracle)
            outcome = simulation.run(jobs)
            simulation.close()
            report.check("all_finished", len(outcome.turnaround_s) == len(jobs))
            turnaround = sorted(outcome.turnaround_s.values())
            report.add(
                arm, turnaround_mean_s=statistics.fmean(turnaround),
                turnaround_p99_s=turnaround[int(0.99 * len(turnaround))],
                wait_mean_s=statistics.fmean(outcome.wait_s.values()),
                slices=outcome.slices, host_us_per_slice=outcome.host_slice_s * 1e6,
            )  # fmt: skip
        mean = {arm: report.arms[arm]["turnaround_mean_s"][-1] for arm in arms}
        gain = mean["fifo"] - mean["srtf_oracle"]
        report.figure("mlfq_share_of_oracle_gain", (mean["fifo"] - mean["mlfq"]) / gain)
        few = trace(60, seed + repeat)
        for idle in (200, 2000) if repeat % 2 else (2000, 200):
            simulation = Simulation("fair", SEATS)
            outcome = simulation.run(few, idle)
            simulation.close()
            report.add(f"idle_{idle}", host_us_per_slice=outcome.host_slice_s * 1e6)
    report.ratio("slice_cost_2000_over_200_idle", "idle_2000", "idle_200", "host_us_per_slice")
    return report


def trace(agents: int, seed: int) -> list[Job]:
    """Return one request for each agent: most short, a few very long, a slight overload.

    All are in one class, because classes would hide the differences of the policies.
    """
    draw = random.Random(seed)
    jobs = []
    for agent in range(1, agents + 1):
        prompt = min(2000, 16 + int(draw.expovariate(1 / 60)))
        reply = min(1500, 4 + int(draw.lognormvariate(3.2, 1.0)))
        jobs.append(Job(draw.uniform(0, LOAD_S * agents / AGENTS), agent, prompt, reply))
    return jobs
