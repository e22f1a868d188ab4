"""How the command line shows things: tables for people, aligned columns for pipes, JSON for both.

NO_COLOR is respected. Errors go to stderr and end with what to do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from .syscalls.errors import AiosError


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; headers in lower case ending in ``>`` are right-aligned."""
    names = [header.rstrip(">").upper() for header in headers]
    right = [header.endswith(">") for header in headers]
    if sys.stdout.isatty():
        _rich_table(names, right, rows)
        return
    widths = [max(len(row[i]) for row in [names, *rows]) for i in range(len(names))]
    for row in [names, *rows]:
        cells = [
            cell.rjust(width) if on_right else cell.ljust(width)
            for cell, width, on_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _rich_table(names: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, on_right in zip(names, right, strict=True):
        grid.add_column(name, justify="right" if on_right else "left", overflow="ellipsis")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    Console().print(grid)


def as_json(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(msgspec.to_builtins(value), indent=2))


def complain(error: AiosError | str, hint: str = "") -> None:
    """An error, and under it what to do."""
    text, hint = (error.message, error.hint) if isinstance(error, AiosError) else (error, hint)
    print(f"aios: {text}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)


def duration(seconds: float) -> str:
    """12.3s, 4m05s, 3h02m, 2d04h."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for unit, size, below, part in (
        ("m", 60, "s", 1),
        ("h", 3600, "m", 60),
        ("d", 86400, "h", 3600),
    ):
        if whole < size * (60 if unit != "h" else 24) or unit == "d":
            return f"{whole // size}{unit}{whole % size // part:02d}{below}"
    raise AssertionError


def size(count: int) -> str:
    """Bytes in binary units."""
    amount = float(count)
    for unit in ("B", "K", "M", "G"):
        if amount < 1024 or unit == "G":
            return f"{amount:.0f}{unit}" if unit in "BK" else f"{amount:.1f}{unit}"
        amount /= 1024
    raise AssertionError
