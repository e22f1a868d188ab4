"""What ``aios model pull`` tells: a bar for people, lines of JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from .hub_names import RemoteFile

_EVERY_S = 1.0
"""Time between two lines of progress."""


class PullReport(Protocol):
    """How a pull tells how far it is. Bytes count from the beginning of all missing files."""

    def begin(self, files: list[RemoteFile], missing_bytes: int) -> None:
        """The files are known, and how much is missing."""

    def progress(self, done_bytes: int) -> None:
        """So much is there."""

    def checking(self, file: RemoteFile) -> None:
        """The file's checksum is computed."""

    def say(self, text: str) -> None:
        """Tell something else."""

    def done(self, name: str, path: Path, problem: str) -> None:
        """The model is there under this name."""

    def failed(self, text: str, hint: str) -> None:
        """The pull ends without it."""

    def close(self) -> None:
        """Nothing more is downloaded."""


class JsonReport:
    """One JSON object in each line of stdout."""

    def __init__(self) -> None:
        self._total, self._told_s = 0, 0.0

    def _tell(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), flush=True)

    def begin(self, files: list[RemoteFile], missing_bytes: int) -> None:
        self._total = missing_bytes
        listed = [{"name": file.name, "size_bytes": file.size_bytes} for file in files]
        self._tell("begin", files=listed, missing_bytes=missing_bytes)

    def progress(self, done_bytes: int) -> None:
        now = time.monotonic()
        if now - self._told_s >= _EVERY_S or done_bytes == self._total:
            self._told_s = now
            self._tell("progress", done_bytes=done_bytes, total_bytes=self._total)

    def checking(self, file: RemoteFile) -> None:
        self._tell("checking", name=file.name)

    def say(self, text: str) -> None:
        self._tell("note", text=text)

    def done(self, name: str, path: Path, problem: str) -> None:
        self._tell("done", name=name, path=str(path), problem=problem)

    def failed(self, text: str, hint: str) -> None:
        self._tell("failed", error=text, hint=hint)

    def close(self) -> None:
        pass


class TerminalReport:
    """A bar on a terminal; without one, lines at the beginning and at the end."""

    def __init__(self) -> None:
        from rich import progress as bars
        from rich.console import Console

        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn(),
            bars.TransferSpeedColumn(), bars.TimeRemainingColumn(), console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._task = self._bar.add_task("pulling", total=None)
        self._had = -1

    def begin(self, files: list[RemoteFile], missing_bytes: int) -> None:
        title = files[0].name + (f" and {len(files) - 1} more" if files[1:] else "")
        if not missing_bytes:
            return
        if not sys.stderr.isatty():
            print(f"pulling {title}: {missing_bytes:,} bytes", file=sys.stderr)
        self._bar.update(self._task, description=title, total=missing_bytes)
        self._bar.start()

    def progress(self, done_bytes: int) -> None:
        self._bar.update(self._task, completed=done_bytes)

    def checking(self, file: RemoteFile) -> None:
        self._bar.update(self._task, description=f"checking {file.name}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def done(self, name: str, path: Path, problem: str) -> None:
        print(f"{name} ({path})")
        print(f"  use it with: aios run --model {name} FILE.py")
        if problem:
            self.failed(problem, "")

    def failed(self, text: str, hint: str) -> None:
        self.close()
        print(f"aios: {text}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)

    def close(self) -> None:
        self._bar.stop()
