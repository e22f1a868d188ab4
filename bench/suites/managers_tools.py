"""Tools part of the suite ``managers``: a tool call against a direct call of the same function.

The caller is a guest. The tool is a trivial function of a Python file, run by a warm worker of the
toolhost. The two calls take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from aios.bench.rig.report import Report, percentiles
from aios.cli import daemonctl
from aios.syscalls.client import Connection
from aios.syscalls.types.tool import SourceRequest, ToolCall

CALLS = 1000
_SOURCE = '''
import aios

@aios.tool(effect="read", idempotent=True)
def double(n: int) -> int:
    """Twice a number."""
    return 2 * n
'''


def measure(report: Report, connection: Connection, folder: Path) -> None:
    """Measure one repeat: arms ``tool_call`` and ``direct_call``; the check ``tool_call_3ms`` holds
    if the median call adds at most 3 ms to the function's own time."""
    path = folder / "bench_tools.py"
    if not path.exists():
        path.write_text(_SOURCE)
        with daemonctl.operator() as operator:
            operator.call("tool.add", SourceRequest("bench", "file", str(path)))
    space: dict[str, Callable[[int], int]] = {}
    exec(compile(_SOURCE, str(path), "exec"), space)
    double, body = space["double"], ToolCall("bench.double", '{"n": 21}')
    connection.call("tool.call", body)  # its worker is warm after this
    times: dict[str, list[float]] = {"tool_call": [], "direct_call": []}
    for _ in range(CALLS):
        start = time.perf_counter()
        reply = connection.call("tool.call", body)
        middle = time.perf_counter()
        double(21)
        times["direct_call"].append(time.perf_counter() - middle)
        times["tool_call"].append(middle - start)
        assert reply.result == "42"
    for arm, seconds in times.items():
        report.add(arm, **percentiles(seconds))
    added_s = statistics.median(times["tool_call"]) - statistics.median(times["direct_call"])
    report.check("tool_call_3ms", added_s <= 3e-3)
