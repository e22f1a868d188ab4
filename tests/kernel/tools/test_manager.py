"""The life of a tool call, with a toolhost that never answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aios.kernel.loop.task import Promise, start
from aios.kernel.tools.manager import Call, ToolCalls
from aios.kernel.tools.registry import Tool
from aios.syscalls.toolwire import Source
from aios.syscalls.types.tool import ToolSpec


def _call(tool: Tool, pid: int) -> Call:
    pending: Any = SimpleNamespace(on_end=lambda drop: None, ended=False)
    return Call(pending, tool, "{}", pid, f"agent {pid}", lambda host: None)


def test_a_call_that_is_dropped_when_the_kernel_stops_starts_no_other() -> None:
    loop: Any = SimpleNamespace(now=lambda: 0.0)
    host: Any = SimpleNamespace(run=lambda *_: (1, Promise()))
    calls = ToolCalls(loop, host)
    tool = Tool("t", ToolSpec("t", concurrency=1), "file f", Source("f", "file"))
    first, second = _call(tool, 1), _call(tool, 2)
    task = calls.run(first)
    task.send(None)
    start(calls.run(second))
    assert first.ticket.running and not second.ticket.running
    task.close()  # as the garbage collector does
    assert not second.ticket.running
