"""Write the generated documents; with ``--check``, fail if one is stale.

docs/calls.md comes from the table of system calls, docs/cli.md from --help, docs/files.md from the
modules' first lines, docs/bench.md and the figures in README.md from docs/bench/SUITE.json
(``aios bench SUITE --json``), docs/schedule.svg from docs/schedule.json (tools/schedule.py). A dead
link, or a test that SECURITY.md names and that does not exist, is an error in either case.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TOPS = {
    "syscalls": "aios.syscalls",
    "hw": "aios.hw",
    "kernel": "aios.kernel",
    "agentproc": "aios",
    "bench": "aios.bench",
    "examples": "aios.examples",
}


def main() -> int:
    """Write or check every generated file; return 1 if a check failed."""
    os.environ["COLUMNS"] = "100"
    problems = []
    for path, text in pages():
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            problems.append(f"{path.relative_to(ROOT)} is stale; update it with: make docs")
    problems += missing_tests(ROOT / "SECURITY.md")
    for document in (*ROOT.glob("*.md"), *DOCS.glob("*.md")):
        problems += dead_links(document)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def pages() -> Iterator[tuple[Path, str]]:
    """Yield every generated file and its text."""
    yield DOCS / "calls.md", calls()
    yield DOCS / "cli.md", cli()
    yield DOCS / "files.md", files()
    yield DOCS / "bench.md", bench()
    yield DOCS / "schedule.svg", schedule()
    yield ROOT / "README.md", readme()


def calls() -> str:
    """Return the table of system calls and the built-in groups."""
    from aios.syscalls.table import CALLS

    rows = [
        f"| {c.number} | `{c.name}` | {_who(c)} | {c.effect} | {c.timeout_s:g} "
        f"| `{c.request.__name__}` → `{c.reply.__name__}` |"
        for c in CALLS
    ]
    return "\n".join([
        "# System calls", "", WHO, "",
        "| number | call | who | effect | deadline, s | types |",
        "| --- | --- | --- | --- | --- | --- |", *rows, "", *_groups(),
    ])  # fmt: skip


WHO = (
    "`who` says which built-in groups may make a call. `all`: `restricted`, `agent` and `trusted`; "
    "`kin`: on itself and the agents that it started; `operator`: only on the operator's socket. "
    "What a call may touch (files, tools, memory, models, agents, hosts) is a separate right: see "
    "`aios perm ls`. `effect` says what the call changes; an irreversible one may ask the operator."
)


def _who(call: Any) -> str:
    """Return who may make a call by default, as the built-in rules decide it."""
    from aios.kernel.access import groups, rules

    if call.privilege == "operator":
        return "operator"
    policy = groups.load(Path(os.devnull))
    operation = rules.Operation("call", "make", call.name, call.effect)
    may = [
        name
        for name in ("restricted", "agent", "trusted")
        if rules.RuleSet(policy.groups[name].rules).judge(operation)[0] == "allow"
    ]
    who = "all" if len(may) == 3 else ", ".join(f"`{name}`" for name in may)
    return f"{who} (kin)" if call.privilege == "kin" else who


def _groups() -> Iterator[str]:
    """Yield the built-in groups and their rules on objects."""
    from aios.kernel.access import groups

    policy = groups.load(Path(os.devnull))
    yield "# Built-in groups"
    for group in policy.groups.values():
        yield from ("", f"## {group.name}", "", f"{group.about}.", "")
        listed = [rule for rule in group.rules if rule.kind != "call" or rule.name == "*"]
        yield from (f"- `{rule}`" for rule in listed)
        if len(listed) < len(group.rules):
            yield "- `trust call:` the calls above that say `all`"
    yield ""


def readme() -> str:
    """Return README.md with its figures updated."""
    return _between((ROOT / "README.md").read_text(), "figures", figures())


def _between(text: str, name: str, new: str) -> str:
    """Replace the text between the two marks of a name."""
    begin, end = f"<!-- {name}: written by make docs -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{new}\n{end}{after}"


FIGURES = (
    ("throughput", "over_llama_server_n8", "tokens/s of 8 agents, over llama-server's"),
    ("throughput", "long_over_llama_server_n8", "the same with contexts of 900 tokens"),
    ("throughput", "tuned_over_llama_server_n8", "the same after `aios model tune`"),
    ("throughput", "over_raw_n8", "tokens/s of 8 agents, over a bare `llama_decode` loop"),
    ("overhead", "exact_over_off", "tokens/s with `--exact on`, over `--exact off`"),
    ("interactive", "ttft_p99_llama_server_over_ours",
     "worst wait of short requests among 8 long ones: llama-server's over ours"),
    ("interactive", "batch_throughput_kept",
     "tokens/s of the long ones, over those without the short ones"),
    ("stall", "gap_unchunked_over_ours", "pause of streams for a long prompt: unchunked over ours"),
    ("swap", "recompute_over_restore", "recomputing a parked context, over restoring it"),
    ("fairness", "jain", "Jain index of one agent with 8 requests and 7 agents with one"),
    ("prefix", "prefill_over_one_agent",
     "prompt tokens computed for 16 agents with one system prompt, over one agent's"),
)  # fmt: skip
"""Ratios shown in README.md: suite, name of the ratio, text."""


def figures() -> str:
    """Return the table of FIGURES and the machine that they were measured on."""
    lines = ["| measured | ratio |", "| --- | ---: |"]
    machine = ""
    for suite, name, text in FIGURES:
        path = DOCS / "bench" / f"{suite}.json"
        if not path.exists():
            continue
        run: dict[str, Any] = json.loads(path.read_text())
        machine = f"{run['machine']['cpu']}, {run['machine']['cores']} cores"
        if name in run["ratios"]:
            lines.append(f"| {text} | {run['ratios'][name]['median']:.2f} |")
    return "\n".join([
        f"Medians on {machine}, default model; [docs/bench.md](docs/bench.md) has all runs.", "",
        *lines,
    ])  # fmt: skip


def rungs() -> str:
    """Return the rungs of exactness and the speed of each, over llama.cpp's default KV type."""
    from aios.hw.tuning.exact_settings import RUNGS

    path = DOCS / "bench" / "overhead.json"
    ratios = json.loads(path.read_text())["ratios"] if path.exists() else {}
    lines = [
        "| settings, in the order of trial | tokens/s of a mix of agents, over f16 KV |",
        "| --- | ---: |",
    ]
    for rung in RUNGS:
        ratio = ratios.get(f"{rung.name}, over f16")
        lines.append(f"| {rung.name} | {ratio['median']:.2f} |" if ratio else f"| {rung.name} | |")
    return "\n".join(lines)


RUNGS_ABOUT = (
    "While a model is idle, a self-test tries these settings in order and keeps the fastest "
    "that passes. The speeds are from the suite `overhead`."
)


def cli() -> str:
    """Return all --help texts."""
    from aios.cli import main as aios_cli
    from aios.kernel import daemon
    from aios.kernel.access.audit import view

    parser = aios_cli.parser()
    parts = ["# Command line", "", "## aios", "", _block(parser.format_help())]
    for name, command in _below(parser).items():
        if name in ("config", "bench", "audit"):
            continue
        parts += ["", f"## aios {name}", "", _block(command.format_help())]
        for action, its in _below(command).items():
            its.epilog = None  # the command's own, said already
            parts += ["", f"### aios {name} {action}", "", _block(its.format_help())]
    parts += ["", "## aios audit", "", _block(view.parser().format_help())]
    parts += ["", "## aiosd", "", _block(daemon.usage()), ""]
    return "\n".join(parts)


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the subcommands of a parser, by name."""
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return actions[0].choices if actions else {}


def files() -> str:
    """List every module with its first line."""
    lines = ["# Files"]
    for top, name in TOPS.items():
        for init in sorted((ROOT / top).rglob("__init__.py")):
            folder = init.parent.relative_to(ROOT)
            package = ".".join([name, *folder.parts[1:]])
            lines += ["", f"## {folder}/ → `{package}`", ""]
            for path in sorted(init.parent.glob("*.py")):
                first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
                lines.append(f"- `{path.name}`: {first}")
    return "\n".join([*lines, ""])


def bench() -> str:
    """Return the saved benchmark runs as tables."""
    lines = ["# Measured", "", "Saved runs of `aios bench SUITE --json`: medians over repeats.", ""]
    lines += ["## The cost of exactness", "", RUNGS_ABOUT, "", rungs()]
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


def schedule() -> str:
    """Return the picture of the recorded schedule."""
    script, trace = ROOT / "tools" / "schedule.py", DOCS / "schedule.json"
    return subprocess.run(
        [sys.executable, str(script), str(trace)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def missing_tests(document: Path) -> Iterator[str]:
    """Yield a problem for each test, written `path::name` in a document, that does not exist."""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", document.read_text()):
        file = ROOT / path
        if not file.exists() or not re.search(rf"def {name}\b", file.read_text()):
            yield f"{document.name} names a test that does not exist: {path}::{name}"


def dead_links(document: Path) -> Iterator[str]:
    """Yield a problem for each link to a file, or to a heading of a file, that does not exist."""
    for path, _, heading in re.findall(r"\]\(([\w./-]+)(#([\w-]+))?\)", document.read_text()):
        file = document.parent / path
        if not file.exists():
            yield f"{document.name} links to a file that does not exist: {path}"
        elif heading and heading not in _headings(file):
            yield f"{document.name} links to a heading that does not exist: {path}#{heading}"


def _headings(document: Path) -> list[str]:
    """Return the anchors of a document's headings."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def _block(text: str) -> str:
    return f"```\n{text.strip()}\n```"


if __name__ == "__main__":
    sys.exit(main())
