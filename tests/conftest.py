"""Shared fixtures: a kernel in temporary folders, and the ``aios`` command aimed at it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zmq

from aios.cli import daemonctl
from aios.hw.engine.engine import EngineSettings
from aios.hw.models import names
from aios.syscalls import paths
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import CheckReply
from aios.syscalls.types.process import RefRequest, SignalRequest
from aios.syscalls.types.tool import ToolCall
from tests.waiting import TIMEOUT_S as TIMEOUT_S

FAKE = ("--model", "fake:step_ms=1,end=0")
IDLE = "import time; time.sleep(1000)"


class Machine:
    """The folders and settings of one kernel. All that a test starts in it ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "run"
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AIOS_", "VIRTUAL_ENV"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AIOS_RUNTIME_DIR": str(self.runtime),
            "AIOS_CONFIG": str(folder / "config.toml"),
            "AIOS_TUNE": "off",
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_DATA_HOME": str(folder / "data"),
            "COLUMNS": "200",
        }

    def start(self, *flags: str) -> int:
        """Start the kernel; return its host pid."""
        return daemonctl.start(flags, self.env)

    def trust(self, *rules: str) -> None:
        """Let agents do what the rules say without asking. Call it before ``start``."""
        listed = ", ".join(f'"{rule}"' for rule in rules)
        (self.folder / "policy.toml").write_text(
            'default = "tested"\nguest = "tested"\n[group.tested]\nfrom = ["agent"]\n'
            f"trust = [{listed}]\n"
        )

    def aios(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "aios.cli", *words],
            env=self.env,
            cwd=self.folder,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def popen(self, *words: str) -> subprocess.Popen[str]:
        """Start the command line without waiting."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "aios.cli", *words],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def agent(self, name: str, code: str) -> str:
        """Write an agent's file; return its path."""
        path = self.folder / f"{name}.py"
        path.write_text(code)
        return str(path)

    def audit(self, *words: str) -> list[dict[str, Any]]:
        """Return all audit records that ``aios audit WORDS`` selects."""
        got = self.aios("audit", "--json", "-n", "0", *words)
        assert got.returncode == 0, got.stderr
        return [json.loads(line) for line in got.stdout.splitlines()]

    def audit_folder(self) -> Path:
        """Return the folder of the audit log's files."""
        return Path(self.aios("audit", "path").stdout.strip())

    def log(self) -> str:
        """Return the text of the kernel's log."""
        path = self.folder / "state" / "aios" / "aiosd.log"
        return path.read_text() if path.exists() else ""


@contextlib.contextmanager
def folders() -> Iterator[Machine]:
    """Make folders for a kernel; at the end, stop it if it runs."""
    with tempfile.TemporaryDirectory(prefix="aios-t-") as name:
        machine = Machine(Path(name))
        try:
            yield machine
        finally:
            daemonctl.stop(machine.runtime)


@contextlib.contextmanager
def shared_kernel() -> Iterator[Machine]:
    """Make folders for a kernel that several tests share; its log may show no traceback."""
    with folders() as machine:
        yield machine
        daemonctl.stop(machine.runtime)
        assert "Traceback" not in machine.log()


@contextlib.contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run an HTTP server of the test's own; yield its host:port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test on the real model the fixture ``settings_known``, before its others."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("real"):
            item.fixturenames.insert(0, "settings_known")


@pytest.fixture(scope="session")
def settings_known() -> None:
    """Find the default model's fastest exact settings, once per machine: they stay in the cache."""
    from aios.hw.tuning.idle_work import find_settings

    find_settings(EngineSettings(
        path=names.resolve("default", Path()), cache_dir=str(paths.cache_dir()),
        look_up_tuned=False,
    ))  # fmt: skip


@pytest.fixture
def stopped() -> Iterator[Machine]:
    """Folders for a kernel; the test starts it itself."""
    with folders() as machine:
        yield machine


@pytest.fixture
def own(stopped: Machine) -> Iterator[Machine]:
    """A kernel of the test's own, on the fake model."""
    stopped.start(*FAKE)
    yield stopped
    assert "Traceback" not in stopped.log()


@pytest.fixture(scope="session")
def _fake_kernel() -> Iterator[Machine]:
    with shared_kernel() as machine:
        machine.start("--model", "fake:step_ms=1,end=0", "--seats", "4", "--quantum", "4")
        yield machine


@pytest.fixture
def machine(_fake_kernel: Machine) -> Iterator[Machine]:
    """A kernel on the fake model, shared by all tests of a run; what a test leaves is killed."""
    yield _fake_kernel
    with operator(_fake_kernel) as connection:
        for row in connection.call("proc.ps", _ps()).processes:
            if row.exit_code is None and row.os_pid != os.getpid():  # this process is a guest, too
                connection.call("proc.signal", SignalRequest(str(row.pid), "kill"))
                connection.call("proc.wait", RefRequest(str(row.pid)))
        check: CheckReply = connection.call("kernel.check", Empty())
    assert check.problems == []


@pytest.fixture
def guest(machine: Machine, context: zmq.Context[Any]) -> Iterator[Connection]:
    """A connection of a guest, as a program started by hand has it."""
    with Connection(context, Credentials(machine.runtime)) as connection:
        yield connection


@pytest.fixture(scope="session")
def context() -> Iterator[zmq.Context[Any]]:
    """A zmq context for the connections that tests make themselves."""
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.term()


def call_tool(
    connection: Connection, tool: str, timeout_s: float | None = None, /, **arguments: Any
) -> Any:
    """Call a tool; return its result."""
    reply = connection.call("tool.call", ToolCall(tool, json.dumps(arguments)), timeout_s)
    return json.loads(reply.result)


def operator(machine: Machine) -> Connection:
    """Return a connection to the operator's socket."""
    return Connection(zmq.Context.instance(), Credentials(machine.runtime, operator=True))


def _ps() -> Any:
    from aios.syscalls.types.process import PsRequest

    return PsRequest()


def lines(text: str) -> Sequence[str]:
    """Return the lines that are not empty."""
    return [line for line in text.splitlines() if line.strip()]
