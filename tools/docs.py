"""Write docs/ from the code and from saved benchmark runs; with --check, fail when it is stale.

docs/calls.md from the table of system calls, docs/cli.md from --help, docs/files.md from the
modules' first lines, docs/bench.md from docs/bench/SUITE.json (``aios bench SUITE --json``).
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FOLDERS = {
    "syscalls": "aios.syscalls",
    "hw": "aios.hw",
    "kernel": "aios.kernel",
    "agentproc": "aios",
    "agentproc/toolhost": "aios.toolhost",
    "bench": "aios.bench",
    "examples": "aios.examples",
}


def main() -> int:
    """0 when all is written, or with --check when nothing differs."""
    os.environ["COLUMNS"] = "100"
    stale = []
    for name, text in pages():
        path = DOCS / name
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(f"docs/{name}")
    for problem in stale:
        print(f"{problem} is stale; write it anew with: make docs", file=sys.stderr)
    return 1 if stale else 0


def pages() -> Iterator[tuple[str, str]]:
    """Every generated file."""
    yield "calls.md", calls()
    yield "cli.md", cli()
    yield "files.md", files()
    yield "bench.md", bench()


def calls() -> str:
    """The system calls."""
    from aios.syscalls.table import CALLS

    rows = [
        f"| {c.number} | `{c.name}` | {c.privilege} | {c.effect} | {c.timeout_s:g} "
        f"| `{c.request.__name__}` → `{c.reply.__name__}` |"
        for c in CALLS
    ]
    return "\n".join([
        "# System calls", "",
        "Who: `any` caller; `kin`: on itself and its descendants, the operator on all; `operator`.",
        "", "| number | call | who | effect | deadline, s | types |",
        "| --- | --- | --- | --- | --- | --- |", *rows, "",
    ])  # fmt: skip


def cli() -> str:
    """All --help texts."""
    from aios import cli as aios_cli
    from aios.kernel import daemon

    parser = aios_cli.parser()
    parts = ["# Command line", "", "## aios", "", _block(parser.format_help())]
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for name, command in actions[0].choices.items():
        if name not in ("config", "bench"):
            parts += ["", f"## aios {name}", "", _block(command.format_help())]
    parts += ["", "## aiosd", "", _block(daemon.usage()), ""]
    return "\n".join(parts)


def files() -> str:
    """Every module and its first line."""
    lines = ["# Files"]
    for folder, package in FOLDERS.items():
        lines += ["", f"## {folder}/ → `{package}`", ""]
        for path in sorted((ROOT / folder).glob("*.py")):
            first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
            lines.append(f"- `{path.name}`: {first}")
    return "\n".join([*lines, ""])


def bench() -> str:
    """The saved runs."""
    lines = ["# Measured", "", "Saved runs of `aios bench SUITE --json`; medians over repeats."]
    for path in sorted((DOCS / "bench").glob("*.json")):
        run: dict[str, Any] = json.loads(path.read_text())
        cpu, cores = run["machine"]["cpu"], run["machine"]["cores"]
        config = ", ".join(f"{key} {value}" for key, value in run["config"].items())
        lines += ["", f"## {run['suite']}", "", f"{cpu}, {cores} cores; {config}", ""]
        arms = list(run["arms"])
        lines += ["| | " + " | ".join(arms) + " |", "| --- |" + " ---: |" * len(arms)]
        for metric in dict.fromkeys(m for arm in run["arms"].values() for m in arm):
            cells = [run["arms"][arm].get(metric) for arm in arms]
            shown = [f"{cell['median']:.4g}" if cell else "" for cell in cells]
            lines.append(f"| {metric} | " + " | ".join(shown) + " |")
        lines.append("")
        for name, ratio in run["ratios"].items():
            low, high = min(ratio["runs"]), max(ratio["runs"])
            lines.append(f"- {name} = **{ratio['median']:.3f}** ({low:.3f} to {high:.3f})")
        lines += [f"- {name}: {'yes' if ok else 'NO'}" for name, ok in run["checks"].items()]
    return "\n".join([*lines, ""])


def _block(text: str) -> str:
    return f"```\n{text.strip()}\n```"


if __name__ == "__main__":
    sys.exit(main())
