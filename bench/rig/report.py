"""The report of a suite: arms, ratios and checks, as a table or as one JSON object.

A ratio compares arms of the same repeat, and the report shows the median ratio. A machine that
slows down between repeats slows both arms.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil


@dataclass
class Report:
    """Figures by arm and metric, one for each repeat; the metric's name says the unit."""

    suite: str
    config: Mapping[str, Any]
    arms: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)

    def add(self, arm: str, **metrics: float) -> None:
        """Add the figures of one repeat of an arm."""
        for metric, value in metrics.items():
            self.arms.setdefault(arm, {}).setdefault(metric, []).append(value)

    def ratio(self, name: str, over: str, under: str, metric: str) -> None:
        """Add the ratio of two arms in a metric, repeat by repeat."""
        pairs = zip(self.arms[over][metric], self.arms[under][metric], strict=True)
        self.ratios[name] = [a / b for a, b in pairs]

    def figure(self, name: str, value: float) -> None:
        """Add a ratio of one repeat that the suite computed itself."""
        self.ratios.setdefault(name, []).append(value)

    def check(self, name: str, ok: bool) -> None:
        """Add the result of a check; the check holds if it held in every repeat."""
        self.checks[name] = self.checks.get(name, True) and bool(ok)

    def as_json(self) -> str:
        """Return the object that ``--json`` prints."""
        return json.dumps({
            "suite": self.suite,
            "machine": machine(),
            "config": dict(self.config),
            "arms": {
                arm: {metric: _summary(runs) for metric, runs in metrics.items()}
                for arm, metrics in self.arms.items()
            },
            "ratios": {name: _summary(runs) for name, runs in self.ratios.items()},
            "checks": self.checks,
        }, indent=2)  # fmt: skip

    def as_text(self) -> str:
        """Return a table with a line for each metric and a column for each arm."""
        arms = list(self.arms)
        metrics = list(dict.fromkeys(m for by in self.arms.values() for m in by))
        rows = [["", *arms]]
        for metric in metrics:
            rows.append([metric, *(_shown(self.arms[arm].get(metric)) for arm in arms)])
        lines = [f"{self.suite}: {', '.join(f'{k} {v}' for k, v in self.config.items())}", ""]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for label, *cells in rows:
            padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([label.ljust(widths[0]), *padded]).rstrip())
        if self.ratios:
            lines.append("")
        for name, runs in self.ratios.items():
            low, high = min(runs), max(runs)
            lines.append(f"{name} = {statistics.median(runs):.3f}  ({low:.3f} to {high:.3f})")
        for name, ok in self.checks.items():
            lines.append(f"{name}: {'yes' if ok else 'NO'}")
        return "\n".join(lines)


def _summary(runs: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(runs), "runs": runs}


def _shown(runs: list[float] | None) -> str:
    return "" if not runs else f"{statistics.median(runs):.4g}"


def timed(call: Callable[[], object]) -> float:
    """Call; return the seconds that it took."""
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def percentiles(seconds: Sequence[float], prefix: str = "") -> dict[str, float]:
    """Return p50 and p99 in microseconds of times in seconds, named ``PREFIXp50_us``, …"""
    ordered = sorted(seconds)
    return {f"{prefix}p50_us": statistics.median(ordered) * 1e6,
            f"{prefix}p99_us": ordered[int(0.99 * len(ordered))] * 1e6}  # fmt: skip


def spread(prefix: str, values: list[float]) -> dict[str, float]:
    """Return mean, p50, p90 and maximum of times in seconds, named ``PREFIX_…_s``."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        f"{prefix}_mean_s": statistics.fmean(ordered),
        f"{prefix}_p50_s": statistics.median(ordered),
        f"{prefix}_p90_s": ordered[round(0.9 * last)],
        f"{prefix}_max_s": ordered[last],
    }


def machine() -> dict[str, Any]:
    """Describe the machine that ran the suite."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


Suite = Callable[[int, int, Path | None], Report]
"""(seed, repeats, folder for plots or None) → report."""
