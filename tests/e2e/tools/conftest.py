"""A kernel with tools that misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from aios.syscalls.client import Connection, Credentials
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import CheckReply
from aios.syscalls.types.tool import SourceRequest
from tests.conftest import Machine, operator, shared_kernel

from .rig import TOOLS


@pytest.fixture(scope="module")
def _kernel() -> Iterator[Machine]:
    with shared_kernel() as machine:
        machine.env["KERNELS_OWN_KEY"] = "hidden"
        (machine.folder / "docs").mkdir()
        (machine.folder / "docs" / "a.txt").write_text("about seats")
        (machine.folder / "tools.py").write_text(TOOLS)
        machine.trust("tool.call:*", "network.connect:127.0.0.1")
        machine.start("--model", "fake:end=0", "--tool-folders", f"docs={machine.folder}/docs")
        with operator(machine) as connection:
            path = str(machine.folder / "tools.py")
            connection.call("tool.add", SourceRequest("my", "file", path))
        yield machine


@pytest.fixture
def tools(_kernel: Machine) -> Iterator[Machine]:
    """A kernel with the tools of ``rig``; checks that each test leaves no call behind."""
    yield _kernel
    with operator(_kernel) as connection:
        check: CheckReply = connection.call("kernel.check", Empty())
        found = connection.call("tool.list", Empty())
    assert check.problems == []
    assert [
        (t.spec.name, t.running, t.waiting) for t in found.tools if t.running or t.waiting
    ] == []


@pytest.fixture
def guest(tools: Machine, context: zmq.Context[Any]) -> Iterator[Connection]:
    with Connection(context, Credentials(tools.runtime)) as connection:
        yield connection
