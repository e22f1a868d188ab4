"""The report of a tuning: a table of all candidates and the choice, as text or as JSON."""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .candidate import ORIGINAL, TURN_PROMPT, TURN_REPLY
from .search import Search, Trial


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate's row in the table. Rates in tokens/s."""

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
    """The reason if there is nothing to tune."""
    removed: list[str] | None = None
    """The files that ``--reset`` removed."""
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
        """Make the report of a finished search; marks the chosen trials in their notes."""
        for trial, text in ((search.fastest, "chosen for --exact off"), (search.exact, "chosen")):
            trial.note = text
        return cls(
            model=model, seats=seats, limit_percent=limit_percent, seconds=seconds,
            rows=[_row(trial) for trial in search.trials], chosen=_row(search.exact),
            chosen_exact_off=_row(search.fastest),
            over_original=search.exact.score / search.baseline.score,
        )  # fmt: skip


def _row(trial: Trial) -> Row:
    candidate, speed = trial.candidate, trial.speed
    return Row(
        weights=candidate.weights, kv_type=candidate.rung.kv_type, rung=candidate.rung.name,
        ubatch_tokens=candidate.ubatch_tokens, threads=candidate.threads, alone=speed.alone,
        together=speed.together, prefill=speed.prefill, perplexity_percent=trial.worse_percent,
        read_all=trial.read_all, exact=trial.exact, score=trial.score, note=trial.note,
    )  # fmt: skip


def show(report: Report, as_json: bool) -> None:
    """Print the report to standard output."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
        return
    if report.nothing:
        print(report.nothing)
    elif report.removed is not None:
        print(f"removed {len(report.removed)} files" if report.removed else "was not tuned")
        if report.removed:
            print("a running kernel keeps the loaded model; restart it: aios daemon restart")
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
        f"\nN: tokens/s generated with N seats busy; mix: tokens/s when every seat computes "
        f"{TURN_PROMPT} tokens of prompt\nand generates {TURN_REPLY}; perplexity: excess over the "
        f"original's, at most {report.limit_percent:g} % (~: not read to the end)\n"
    )
    if report.chosen.weights == ORIGINAL and report.over_original <= 1:
        print("nothing is faster than the original with its usual settings")
    else:
        print(f"chosen: {report.chosen.weights}, {report.chosen.rung}: "
              f"{report.over_original:.2f} times the original's speed")  # fmt: skip
    print("a running kernel uses it when it next loads the model: aios daemon restart")


def complain(text: str, hint: str) -> None:
    """Print an error and, below it, a hint."""
    print(f"aios: {text}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
