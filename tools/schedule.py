"""Draw a schedule: who had the model when, from what ``aios trace export`` writes.

``python tools/schedule.py TRACE.json > OUT.svg`` draws any trace. With ``--record TRACE.json`` the
script first runs the agents of README.md's picture on a kernel of its own and saves their trace.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

Event = dict[str, Any]

WIDTH, LEFT, TOP, LANE, BAR = 860, 108, 74, 44, 20
"""Pixels: the picture, the names at its left, the legend above, an agent's lane, a bar in it."""
COLOURS = ("blue", "green", "orange", "purple")
STYLE = """
.page { fill: #ffffff; stroke: #d0d7de } .ink { fill: #1f2328 } .faint { fill: #59636e }
.grid { stroke: #d8dee4 } .wait { stroke: #8c959f; stroke-dasharray: 2 3 } .park { fill: #cf222e }
.restore { fill: #1f2328 } .blue { fill: #0969da } .green { fill: #1a7f37 }
.orange { fill: #bc4c00 } .purple { fill: #8250df }
text { font: 13px sans-serif } .small { font-size: 12px }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117; stroke: #3d444d } .ink { fill: #f0f6fc } .faint { fill: #9198a1 }
.grid { stroke: #2a313c } .wait { stroke: #6e7681 } .park { fill: #ff7b72 }
.restore { fill: #f0f6fc } .blue { fill: #4493f8 } .green { fill: #3fb950 }
.orange { fill: #db6d28 } .purple { fill: #ab7df8 } }
"""
AGENTS = (
    ("writer", "normal", 72, 0.0),
    ("critic", "normal", 72, 0.0),
    ("planner", "normal", 72, 0.0),
    ("visitor", "interactive", 16, 1.6),
)
"""The recorded agents: name, class, tokens to generate, seconds until it starts."""


def main() -> int:
    """Draw the trace that is named last; record it first if asked to."""
    path = Path(sys.argv[-1])
    if "--record" in sys.argv:
        record(path)
    print(draw(json.loads(path.read_text())["traceEvents"]), end="")
    return 0


def record(path: Path) -> None:
    """Run AGENTS on two seats of a real model and save their trace."""
    from aios.bench.rig.harness import WORKER, kernel

    flags = ["--seats", "2", "--quantum", "6", "--policy", "rr", "--ctx", "512",
             "--threads", "1"]  # fmt: skip
    with kernel(flags) as machine:
        started, at_s = [], 0.0
        for name, klass, tokens, start_s in AGENTS:
            select.select([], [], [], start_s - at_s)
            at_s = start_s
            prompt = f"You are a {name}. Tell a long story about a river."
            arguments = ("--prompt", prompt, "--max-tokens", str(tokens))
            started.append(machine.spawn(WORKER, *arguments, name=name, klass=klass))
        for agent in started:
            machine.wait(*agent)
        export = [sys.executable, "-m", "aios.cli", "trace", "export", "--output", str(path)]
        subprocess.run(export, check=True)


def draw(events: list[Event]) -> str:
    """The SVG: a lane for each agent, in the order in which they first ran."""
    spans = [event for event in events if event["ph"] == "X" and event["tid"]]
    names = {e["tid"]: e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    start: float = min(event["ts"] for event in spans)
    end: float = max(event["ts"] + event["dur"] for event in spans)
    lanes: dict[int, list[Event]] = defaultdict(list)
    for event in sorted(spans, key=lambda event: event["ts"]):
        lanes[event["tid"]].append(event)
    height = TOP + LANE * len(lanes) + 36
    scale = (WIDTH - LEFT - 24) / (end - start)

    def x(time: float) -> float:
        return round(LEFT + (time - start) * scale, 2)

    body = _legend()
    seconds = int((end - start) / 1e6)
    for second in range(0, seconds + 1, 1 + seconds // 14):
        at, foot = x(start + second * 1e6), height - 32
        body.append(f'<path class="grid" d="M{at} {TOP - 8}V{foot}"/>')
        body.append(f'<text class="faint small" x="{at - 8}" y="{foot + 18}">{second} s</text>')
    for number, (agent, its) in enumerate(lanes.items()):
        middle = TOP + LANE * number + LANE // 2
        name, colour = names[agent].split(" ")[0], COLOURS[number % len(COLOURS)]
        body.append(f'<text class="ink" x="20" y="{middle + 5}">{name}</text>')
        body += _lane(its, middle, colour, x)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>Who has the model when: {len(lanes)} agents share the model</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        *body, "</svg>", "",
    ])  # fmt: skip


def _lane(events: list[Event], middle: int, colour: str, x: Callable[[float], float]) -> list[str]:
    """An agent's spans: bars where it computes, a dashed line where it waits, marks for moves."""
    parts, marks = [], []
    for event in events:
        left, right = x(event["ts"]), x(event["ts"] + event["dur"])
        match event["name"]:
            case "wait":
                parts.append(f'<path class="wait" d="M{left} {middle}H{right}"/>')
            case "run" | "prefill":
                width = max(0.8, round(right - left - 0.6, 2))
                parts.append(
                    f'<rect class="{colour}" x="{left}" y="{middle - BAR // 2}" width="{width}" '
                    f'height="{BAR}"/>'
                )
            case "park":
                top = middle - BAR // 2 - 2
                marks.append(f'<path class="park" d="M{left - 4} {top - 7}h8l-4 7z"/>')
            case "restore":
                foot = middle + BAR // 2 + 2
                marks.append(f'<path class="restore" d="M{left - 4} {foot + 7}h8l-4 -7z"/>')
    return parts + marks


def _legend() -> list[str]:
    """Draw the legend."""
    return [
        '<text class="ink" x="20" y="26">Four agents on two seats of one model: round robin, a '
        "quantum of 6 tokens</text>",
        '<rect class="blue" x="20" y="41" width="16" height="11"/>',
        '<text class="faint small" x="42" y="51">computes</text>',
        '<path class="wait" d="M112 47h22"/>',
        '<text class="faint small" x="140" y="51">waits</text>',
        '<path class="park" d="M188 43h8l-4 7z"/>',
        '<text class="faint small" x="201" y="51">preempted, its state parked in shared memory'
        "</text>",
        '<path class="restore" d="M494 50h8l-4 -7z"/>',
        '<text class="faint small" x="507" y="51">restored, continues with the next token</text>',
    ]


if __name__ == "__main__":
    sys.exit(main())
