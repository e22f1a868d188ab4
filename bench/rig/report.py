"""What a suite reports: arms, ratios and checks, as a table for people or one JSON object.

A ratio is taken between arms of the same repeat, and the median of these is reported, so a machine
that slows down between repeats slows both sides.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil


@dataclass
class Report:
    """Figures by arm and metric, one for each repeat; units are in the metrics' names."""

    suite: str
    config: Mapping[str, Any]
    arms: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)

    def add(self, arm: str, **metrics: float) -> None:
        """Figures of one repeat of an arm."""
        for metric, value in metrics.items():
            self.arms.setdefault(arm, {}).setdefault(metric, []).append(value)

    def ratio(self, name: str, over: str, under: str, metric: str) -> None:
        """The pairwise ratio of two arms' metric."""
        pairs = zip(self.arms[over][metric], self.arms[under][metric], strict=True)
        self.ratios[name] = [a / b for a, b in pairs]

    def figure(self, name: str, value: float) -> None:
        """A ratio of one repeat that is worked out by the suite."""
        self.ratios.setdefault(name, []).append(value)

    def check(self, name: str, ok: bool) -> None:
        """A check holds when it held every time."""
        self.checks[name] = self.checks.get(name, True) and bool(ok)

    def as_json(self) -> str:
        """The one object of ``--json``."""
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
        """Tables: a line for each metric, a column for each arm."""
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


def spread(prefix: str, values: list[float]) -> dict[str, float]:
    """mean, p50, p90 and max of some seconds, named."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        f"{prefix}_mean_s": statistics.fmean(ordered),
        f"{prefix}_p50_s": statistics.median(ordered),
        f"{prefix}_p90_s": ordered[round(0.9 * last)],
        f"{prefix}_max_s": ordered[last],
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
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
