"""Write docs/ from the code and from saved benchmark runs; with --check, fail when it is stale.

docs/calls.md and README.md's table of calls from the table of system calls, docs/cli.md from
--help, docs/files.md from the modules' first lines, docs/bench.md and README.md's figures from
docs/bench/SUITE.json (``aios bench SUITE --json``).
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
TOPS = {
    "syscalls": "aios.syscalls",
    "hw": "aios.hw",
    "kernel": "aios.kernel",
    "agentproc": "aios",
    "bench": "aios.bench",
    "examples": "aios.examples",
}


def main() -> int:
    """0 when all is written, or with --check when nothing differs."""
    os.environ["COLUMNS"] = "100"
    stale = []
    for path, text in pages():
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.relative_to(ROOT))
    for problem in stale:
        print(f"{problem} is stale; write it anew with: make docs", file=sys.stderr)
    return 1 if stale else 0


def pages() -> Iterator[tuple[Path, str]]:
    """Every generated file."""
    yield DOCS / "calls.md", calls()
    yield DOCS / "cli.md", cli()
    yield DOCS / "files.md", files()
    yield DOCS / "bench.md", bench()
    yield ROOT / "README.md", readme()


def calls() -> str:
    """The system calls."""
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
    "Who may make a call, by the built-in groups: `all`: `restricted`, `agent`, `trusted`; `kin`: "
    "these, on themselves and what they have started; `operator`: only the operator's own socket. "
    "What a call may then touch (files, tools, memory, models, agents, hosts) is a right of its "
    "own: `aios perm ls`."
)


def _who(call: Any) -> str:
    """Who may make a call by default: what the rights themselves say, put shortly."""
    from aios.kernel.access import groups, rules

    if call.privilege == "operator":
        return "operator"
    policy = groups.load(Path(os.devnull))
    request = rules.Request("call", "make", call.name, call.effect)
    may = [
        name
        for name in ("restricted", "agent", "trusted")
        if rules.RuleSet(policy.groups[name].rules).judge(request)[0] == "allow"
    ]
    who = "all" if len(may) == 3 else ", ".join(f"`{name}`" for name in may)
    return f"{who} (kin)" if call.privilege == "kin" else who


def _groups() -> Iterator[str]:
    """The built-in groups and their rules on things."""
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
    """README.md with its table of calls and its figures written anew."""
    from aios.syscalls.table import CALLS

    rows = [f"| `{c.name}` | {_who(c)} | {c.effect} |" for c in CALLS]
    table = "\n".join(["| call | who, by default | effect |", "| --- | --- | --- |", *rows])
    text = _between((ROOT / "README.md").read_text(), "calls", table)
    text = _between(text, "rungs", rungs())
    return _between(text, "figures", figures())


def _between(text: str, name: str, new: str) -> str:
    """The text with something new between the marks of a name."""
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
     "worst wait of short requests beside 8 long ones: llama-server's over ours"),
    ("interactive", "batch_throughput_kept", "what the long ones keep of their tokens/s"),
    ("stall", "gap_unchunked_over_ours", "pause of streams for a long prompt: unchunked over ours"),
    ("swap", "recompute_over_restore", "computing a parked context again, over restoring it"),
    ("fairness", "jain", "Jain index, an agent with 8 requests among 7 with one"),
    ("prefix", "prefill_over_one_agent",
     "prompt work of 16 agents with one system prompt, over one's"),
)  # fmt: skip
"""Of the saved runs, what the README cuts out: suite, ratio, what it says."""


def figures() -> str:
    """The ratios of FIGURES, and where they were measured."""
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
        f"Medians on {machine}, default model; all of it, with the commands: "
        "[docs/bench.md](docs/bench.md).", "", *lines,
    ])  # fmt: skip


def rungs() -> str:
    """The rungs of exactness, and the speed of each over that of llama.cpp's own settings."""
    from aios.hw.tuning.ladder import RUNGS

    path = DOCS / "bench" / "overhead.json"
    ratios = json.loads(path.read_text())["ratios"] if path.exists() else {}
    lines = [
        "| settings, in the order of trial | tokens/s of agents' mix, over f16 KV |",
        "| --- | ---: |",
    ]
    for number, rung in enumerate(RUNGS, 1):
        ratio = ratios.get(f"rung_{number}_over_f16")
        lines.append(f"| {rung.name} | {ratio['median']:.2f} |" if ratio else f"| {rung.name} | |")
    return "\n".join(lines)


def cli() -> str:
    """All --help texts."""
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
    """Its commands, or a command's actions."""
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return actions[0].choices if actions else {}


def files() -> str:
    """Every module and its first line."""
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
