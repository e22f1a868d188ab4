"""Common behaviour of all commands."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aios.cli import main
from aios.syscalls.table import CALLS

NO_JSON = {
    "aios storage cat": "writes a file's bytes",
    "aios config": "parsed by the kernel's program",
    "aios bench": "parsed by the benchmarks' program",
    "aios audit": "parsed by the log's program",
}


def test_every_command_has_json_output() -> None:
    missing = {
        name
        for name, command in _commands(main.parser(), "aios")
        if "--json" not in command.format_help()
    }
    assert missing == set(NO_JSON)


def test_help_imports_no_command() -> None:
    code = "import sys; from aios.cli import main; main.parser(''); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name for name in shown.stdout.split() if name.startswith("aios.cli.")}
    assert imported == {f"aios.cli.{name}" for name in ("main", "command", "out", "parts")}


def test_version_and_list_of_calls_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"version"}
    assert main.main(["call", "--list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["call"] for each in told] == [call.name for call in CALLS]


def _commands(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the commands without subcommands, each with its full name."""
    choices = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not choices:
        yield name, parser
    for each in choices:
        for word, command in each.items():
            yield from _commands(command, f"{name} {word}")
