"""The progress of a tuning, on standard error: a bar on a terminal, else a line for each job."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
from rich import progress as bars
from rich.console import Console

from aios.hw.models import model_files

from .candidate import Result, TuningJob
from .search import FINALISTS, ROUNDS

_COPY_BYTES_PER_S = 25e6
_START_S = 0.7
"""Usual time to start a job's process."""
_BUSY = 0.3
"""Share of the CPU used by others from which measurements may be off."""
DOING = {"copy": "converting to", "drop": "removing", "speed": "measuring",
          "perplexity": "reading with", "exact": "self-test of",
          "steps": "timing steps with"}  # fmt: skip


class Progress:
    """Shows how far the tuning is, until it is closed."""

    def __init__(self, source: Path, formats: int, *, quiet: bool = False) -> None:
        self._size_bytes = model_files.size_bytes(source)
        self._formats, self._quiet = formats, quiet
        self._name = source.name
        self._began_s = time.monotonic()
        self._whole_s = 0.0
        """Expected duration; known after the first measurement."""
        self._known_s, self._doing = 0.0, False
        self._bar: bars.Progress | None = None
        if sys.stderr.isatty() and not quiet:
            self._bar = bars.Progress(
                bars.SpinnerColumn(), bars.BarColumn(), bars.TaskProgressColumn(),
                bars.TimeElapsedColumn(), bars.TextColumn("{task.description}"),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()

    def start(self, known: int, damaged: bool) -> None:
        """Report the results of an earlier run, before the first job."""
        if damaged:
            self._say("the results of an earlier run cannot be used: starting over")
        elif known:
            self._say(f"continuing: {known} results are known (--reset forgets them)")
        busy = psutil.cpu_percent(interval=0.3) / 100
        if busy > _BUSY:
            self._say(f"other programs use {busy:.0%} of the CPU: measurements may be off")

    def begin(self, job: TuningJob) -> None:
        """Report that a job starts."""
        self._doing = True
        candidate = job.candidate
        what = f"{DOING[job.kind]} {candidate.weights}"
        if job.kind != "copy":
            what += f", {candidate.rung.name}, ubatch {candidate.ubatch_tokens}, "
            what += f"{candidate.threads} threads" + (f", round {job.round}" if job.round else "")
        if self._bar:
            self._bar.update(self._task, description=what)
        elif job.kind != "drop":
            self._say(what)

    def end(self, job: TuningJob, result: Result) -> None:
        """Note that a job is done, now or in an earlier run."""
        if not self._doing:
            self._known_s += _START_S + result.seconds
        self._doing = False
        if job.kind == "speed" and not self._whole_s and not result.failed:
            self._whole_s = self._expected_s(result)
            self._say(f"{self._name}: tuning takes about {_minutes(self._whole_s)} in all")
        if self._bar and self._whole_s:
            done_s = self._known_s + time.monotonic() - self._began_s
            done = min(done_s, 0.98 * self._whole_s)
            self._bar.update(self._task, total=self._whole_s, completed=done)

    def _expected_s(self, speed: Result) -> float:
        """Estimate the duration: most copies are dropped early, one is measured thoroughly."""
        speed_s = _START_S + speed.seconds
        measurements = 2 + self._formats + 4 + ROUNDS * (FINALISTS + 1)
        read_s, test_s = 3000 / speed.prefill, 2400 / speed.prefill + 150 / speed.alone
        copies_s = self._formats * self._size_bytes / _COPY_BYTES_PER_S
        reading_s = read_s * (2 + 0.3 * self._formats)
        return measurements * speed_s + copies_s + reading_s + 4 * test_s

    def _say(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(f"tune: {text}", highlight=False)
        elif not self._quiet:
            print(f"tune: {text}", file=sys.stderr, flush=True)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
