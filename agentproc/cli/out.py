"""Output of the command line: tables for people, aligned columns for pipes, JSON for both.

Respects NO_COLOR and escapes control characters in what agents wrote. Errors go to stderr and end
with what to do.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from aios.syscalls.errors import AiosError, InvalidArgument

_GAP = 2
_LEAST_LAST = 16
"""Minimum width of a table's last column, in characters, on a narrow terminal."""


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; headers in lower case that end in ``>`` are right-aligned.

    On a terminal that is too narrow, columns whose headers begin with ``??``, then those with
    ``?``, are left out, the last of them first, and the last column is folded.
    """
    names = [header.strip("?>").upper() for header in headers]
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(_cells(row[i]) for row in [names, *rows]) for i in range(len(names))]
    shown, room = list(range(len(names))), 0
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        shown = fitting(widths, [header.count("?") for header in headers], room)
    bold = room and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
    indent = sum(widths[i] + _GAP for i in shown[:-1])
    for row in [names, *rows]:
        cells = [_aligned(row[i], widths[i], headers[i].endswith(">")) for i in shown]
        if room and _cells(row[shown[-1]]) > room - indent:
            parts = textwrap.wrap(row[shown[-1]], max(room - indent, 1))
            cells[-1] = ("\n" + " " * indent).join(parts)
        line = (" " * _GAP).join(cells).rstrip()
        print(f"\x1b[1m{line}\x1b[0m" if bold and row is names else line)
    hidden = [name.lower() for i, name in enumerate(names) if i not in shown]
    if hidden:
        print(f"not shown, too narrow: {', '.join(hidden)}")


def _aligned(text: str, width: int, right: bool) -> str:
    blank = " " * (width - _cells(text))
    return blank + text if right else text + blank


def _cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def fitting(widths: Sequence[int], spare: Sequence[int], room: int) -> list[int]:
    """Return the columns to show: drop columns until the others fit, those with the highest
    ``spare`` first, of equals the last; columns with 0 stay."""
    shown = list(range(len(widths)))

    def needed() -> int:
        last = min(widths[shown[-1]], _LEAST_LAST)
        return sum(widths[i] for i in shown[:-1]) + last + _GAP * (len(shown) - 1)

    for i in sorted((i for i in shown if spare[i]), key=lambda i: (-spare[i], -i)):
        if needed() <= room:
            break
        shown.remove(i)
    return shown


def plain(text: str) -> str:
    """Return the text with control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def plain_lines(text: str) -> str:
    """Return a text of several lines with control characters escaped."""
    return "\n".join(plain(line) for line in text.split("\n"))


def whole(path: str) -> str:
    """Return a path as the kernel, which runs in another folder, can use it: absolute.

    Raises InvalidArgument for an empty path, which Python takes for the current folder.
    """
    if not path:
        raise InvalidArgument("'' is not a path", "name a file or folder")
    return path if os.path.isabs(path) else str(Path(here()) / path)


def model(name: str) -> str:
    """Return a model's name as it is, or the absolute path if it names a file from here."""
    return whole(name) if name.startswith(".") or os.path.isfile(name) else name


def here() -> str:
    """Return the current folder. Raises InvalidArgument if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise InvalidArgument("the current folder was removed", "change to another: cd") from None


def as_json(value: Any) -> None:
    """Print a value as one JSON document."""
    print(json.dumps(msgspec.to_builtins(value), indent=2))


def complain(error: AiosError | str, hint: str = "") -> None:
    """Print an error to stderr, and below it what to do."""
    text, hint = (error.message, error.hint) if isinstance(error, AiosError) else (error, hint)
    print(f"aios: {plain_lines(text)}", file=sys.stderr)
    if hint:
        print(f"  {plain_lines(hint)}", file=sys.stderr)


def duration(seconds: float) -> str:
    """Return seconds as 12.3s, 4m05s, 3h02m or 2d04h."""
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
    """Return bytes in binary units."""
    amount = float(count)
    for unit in ("B", "K", "M", "G"):
        if amount < 1024 or unit == "G":
            return f"{amount:.0f}{unit}" if unit in "BK" else f"{amount:.1f}{unit}"
        amount /= 1024
    raise AssertionError
