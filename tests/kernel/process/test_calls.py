"""Calls on processes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from aios.kernel.loop.clock import Clock
from aios.kernel.loop.task import start
from aios.kernel.process.calls import ProcessCalls
from aios.kernel.process.table import ProcessTable
from aios.syscalls.errors import AiosError, Cancelled
from aios.syscalls.types.process import RefRequest


def test_a_wait_can_be_dropped_while_others_are_answered() -> None:
    """As when the first answer makes the kernel give up the caller of the second."""
    table = ProcessTable(10)
    unused: Any = SimpleNamespace()
    process = table.create(parent=0, stem="a", command="a", spec=None, guest=True)
    calls = ProcessCalls(table, unused, unused, unused, Clock(), {}, lambda pid: [])
    handlers: Any = calls.handlers
    drops: list[Callable[[AiosError], None]] = []
    for _ in range(2):
        start(handlers["proc.wait"](SimpleNamespace(on_end=drops.append), RefRequest("1")))
    waiting, process.on_exit = process.on_exit, []  # as the supervisor does at a burial
    for drop in drops:
        drop(Cancelled("its caller was killed"))
    assert len(waiting) == 2
