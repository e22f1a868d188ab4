"""The kernel's end of the toolhost, when there is no toolhost."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, start
from aios.kernel.tools.toolhost_link import ToolHost
from aios.syscalls.errors import ToolUnavailable
from aios.syscalls.toolwire import JobDone, Source

SOURCE = Source("standard", "std")


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_an_order_fails_when_no_toolhost_can_be_started(loop: Loop) -> None:
    def cannot(theirs: socket.socket) -> subprocess.Popen[bytes]:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    host = ToolHost(loop, cannot, lambda report: None, lambda: None)
    outcomes: list[Outcome[Any]] = []
    start(host.describe(SOURCE, 1.0)).then(outcomes.append)
    assert isinstance(outcomes[0].error, ToolUnavailable)
    assert "cannot be started" in str(outcomes[0].error)
    _, report = host.run(SOURCE, "rm", "{}", 1.0, lambda name: None)
    start(report).then(outcomes.append)
    done: JobDone = outcomes[1].result()
    assert done.code == "TOOL_UNAVAILABLE" and not done.lost, "it does not run later"
    host.close()
