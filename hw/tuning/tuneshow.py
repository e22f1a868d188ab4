"""What tuning shows: its progress, the table of what was tried, and what was chosen.

A moving bar on a terminal, a line for each job elsewhere; both on standard error. The report goes
to standard output, as a table or as JSON.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

import msgspec
from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .candidate import ORIGINAL, TURN_PROMPT, TURN_REPLY, Job, Result
from .search import FINALISTS, ROUNDS, Search, Trial

_COPY_BYTES_PER_S = 25e6
_START_S = 0.7
_DOING = {"copy": "converting to", "drop": "removing", "look": "measuring",
          "perplexity": "reading with", "exact": "self-test of"}  # fmt: skip


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate in the table. Rates in tokens/s."""

    weights: str
    kv_type: str
    rung: str
    ubatch_tokens: int
    threads: int
    alone: float
    together: float
    prefill: float
    perplexity_percent: float | None
    read_all: bool
    exact: bool | None
    score: float
    note: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of the command."""

    model: str
    nothing: str = ""
    """Why there is nothing to tune."""
    removed: list[str] | None = None
    """What ``--reset`` removed."""
    seats: int = 0
    limit_percent: float = 0.0
    rows: list[Row] = []
    chosen: Row | None = None
    chosen_exact_off: Row | None = None
    over_original: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(
        cls, model: str, seats: int, limit_percent: float, search: Search, seconds: float
    ) -> Report:
        """Of a search that has ended."""
        for trial, text in ((search.fastest, "chosen for --exact off"), (search.exact, "chosen")):
            trial.note = text
        return cls(
            model=model, seats=seats, limit_percent=limit_percent, seconds=seconds,
            rows=[_row(trial) for trial in search.trials], chosen=_row(search.exact),
            chosen_exact_off=_row(search.fastest),
            over_original=search.exact.score / search.baseline.score,
        )  # fmt: skip


def _row(trial: Trial) -> Row:
    candidate, look = trial.candidate, trial.best_known
    return Row(
        weights=candidate.weights, kv_type=candidate.rung.kv_type, rung=candidate.rung.name,
        ubatch_tokens=candidate.ubatch_tokens, threads=candidate.threads, alone=look.alone,
        together=look.together, prefill=look.prefill, perplexity_percent=trial.worse_percent,
        read_all=trial.read_all, exact=trial.exact, score=trial.score, note=trial.note,
    )  # fmt: skip


class Progress:
    """Where the tuning is; use it as a context manager."""

    def __init__(self, source: Path, formats: int, *, quiet: bool = False) -> None:
        self._size_bytes, self._formats, self._quiet = source.stat().st_size, formats, quiet
        self._name = source.name
        self._began_s = time.monotonic()
        self._whole_s = 0.0
        """Expected; known after the first look."""
        self._known_s, self._doing = 0.0, False
        self._bar: bars.Progress | None = None
        if sys.stderr.isatty() and not quiet:
            self._bar = bars.Progress(
                bars.SpinnerColumn(), bars.BarColumn(), bars.TaskProgressColumn(),
                bars.TimeElapsedColumn(), bars.TextColumn("{task.description}"),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._bar:
            self._bar.stop()

    def start(self, known: int, damaged: bool) -> None:
        """Before the first job."""
        if damaged:
            self._say("what an earlier run kept cannot be read: beginning anew")
        elif known:
            self._say(f"going on: {known} results are known (forget them: --reset)")
        busy = psutil_busy()
        if busy > 0.3:
            self._say(f"other programs use {busy:.0%} of the CPU: figures may be off")

    def begin(self, job: Job) -> None:
        """A job that must be done."""
        self._doing = True
        candidate = job.candidate
        what = f"{_DOING[job.kind]} {candidate.weights}"
        if job.kind != "copy":
            what += f", {candidate.rung.name}, ubatch {candidate.ubatch_tokens}, "
            what += f"{candidate.threads} threads" + (f", round {job.round}" if job.round else "")
        if self._bar:
            self._bar.update(self._task, description=what)
        elif job.kind != "drop":
            self._say(what)

    def end(self, job: Job, result: Result) -> None:
        """It is done, now or in an earlier run."""
        if not self._doing:
            self._known_s += _START_S + result.seconds
        self._doing = False
        if job.kind == "look" and not self._whole_s and not result.failed:
            self._whole_s = self._expected_s(result)
            self._say(f"{self._name}: tuning takes about {_minutes(self._whole_s)} in all")
        if self._bar and self._whole_s:
            done_s = self._known_s + time.monotonic() - self._began_s
            done = min(done_s, 0.98 * self._whole_s)
            self._bar.update(self._task, total=self._whole_s, completed=done)

    def _expected_s(self, look: Result) -> float:
        """From the first look: most copies are given up early, one is measured thoroughly."""
        look_s = _START_S + look.seconds
        looks = 2 + self._formats + 4 + ROUNDS * (FINALISTS + 1)
        read_s, test_s = 3000 / look.prefill, 2400 / look.prefill + 150 / look.alone
        copies_s = self._formats * self._size_bytes / _COPY_BYTES_PER_S
        return looks * look_s + copies_s + read_s * (2 + 0.3 * self._formats) + 4 * test_s

    def _say(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(f"tune: {text}", highlight=False)
        elif not self._quiet:
            print(f"tune: {text}", file=sys.stderr, flush=True)


def psutil_busy() -> float:
    """Share of the CPU that is in use, looked at for a moment."""
    import psutil

    return float(psutil.cpu_percent(interval=0.3)) / 100


def show(report: Report, as_json: bool) -> None:
    """The report on standard output."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
        return
    if report.nothing:
        print(report.nothing)
    elif report.removed is not None:
        print(f"removed {len(report.removed)} files" if report.removed else "was not tuned")
        if report.removed:
            print("a running kernel keeps what it has loaded; restart it: aios daemon restart")
    else:
        _table(report)
        _chosen(report)


def _table(report: Report) -> None:
    names = ["weights", "kv", "ubatch", "threads", "N=1", f"N={report.seats}", "prefill",
             "perplexity", "exact", "mix", ""]  # fmt: skip
    cells = [_cells(row) for row in report.rows]
    if sys.stdout.isatty():
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for index, name in enumerate(names):
            grid.add_column(name, justify="right" if 2 <= index <= 7 or index == 9 else "left")
        for row in cells:
            style = "bold" if row[-1].startswith("chosen") else ""
            grid.add_row(*(Text(cell) for cell in row), style=style)
        Console().print(grid)
        return
    widths = [max(len(row[i]) for row in [names, *cells]) for i in range(len(names))]
    for row in [names, *cells]:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def _cells(row: Row) -> list[str]:
    worse = "" if row.perplexity_percent is None else f"{row.perplexity_percent:+.2f}%"
    worse = "original" if row.weights == ORIGINAL and row.perplexity_percent == 0 else worse
    exact = {True: row.rung, False: "no", None: ""}[row.exact]
    return [
        row.weights, row.kv_type, str(row.ubatch_tokens), str(row.threads), f"{row.alone:.0f}",
        f"{row.together:.0f}", f"{row.prefill:.0f}", worse if row.read_all else f"~{worse}",
        exact, f"{row.score:.0f}", row.note,
    ]  # fmt: skip


def _chosen(report: Report) -> None:
    assert report.chosen and report.chosen_exact_off
    print(
        f"\nN: tokens/s generated with so many seats busy; mix: tokens/s when every seat computes "
        f"{TURN_PROMPT} tokens of prompt\nand generates {TURN_REPLY}; perplexity: over the "
        f"original's, at most {report.limit_percent:g} % (~: not read to the end)\n"
    )
    if report.chosen.weights == ORIGINAL and report.over_original <= 1:
        print("nothing is faster than the original with its usual settings")
    else:
        print(f"chosen: {report.chosen.weights}, {report.chosen.rung}: "
              f"{report.over_original:.2f} times the original's speed")  # fmt: skip
    print("a running kernel uses it when it loads the model anew: aios daemon restart")


def complain(text: str, hint: str) -> None:
    """An error, and under it what to do."""
    print(f"aios: {text}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
