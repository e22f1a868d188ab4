"""MCP servers over stdio and streamable HTTP: calls, deaths, changed tools, and keys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from aios.cli import daemonctl
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ToolFailed,
    ToolUnavailable,
)
from aios.syscalls.types.common import Empty
from aios.syscalls.types.tool import McpAddRequest, McpServer, SourceRef, ToolCall
from tests.conftest import TIMEOUT_S, Machine, operator, shared_kernel
from tests.conftest import call_tool as _call
from tests.waiting import wait_until

SERVER = Path(__file__).with_name("mcp_server.py")
KEY = "a-very-secret-key"


@pytest.fixture(scope="module")
def mcp() -> Iterator[Machine]:
    with shared_kernel() as machine:
        machine.trust("tool.call:*")
        machine.start("--model", "fake:end=0")
        assert machine.aios("tool", "secret", "mcpkey", stdin=KEY + "\n").returncode == 0
        got = machine.aios(*_add(machine, "t", "--env", "KEY=${secret:mcpkey}"))
        assert got.returncode == 0, got.stderr
        yield machine
        with operator(machine) as connection:
            assert connection.call("kernel.check", Empty()).problems == []
        daemonctl.stop(machine.runtime)
        assert KEY not in machine.log()


def _add(machine: Machine, name: str, *options: str) -> list[str]:
    command = [sys.executable, str(SERVER), "stdio", str(machine.folder)]
    return ["mcp", "add", name, "--json", *options, "--", *command]


@pytest.fixture
def guest(mcp: Machine, context: zmq.Context[Any]) -> Iterator[Connection]:
    with Connection(context, Credentials(mcp.runtime)) as connection:
        yield connection


def test_calls_are_checked_against_the_servers_schema(mcp: Machine, guest: Connection) -> None:
    assert _call(guest, "t.add", a=2, b=3) == {"result": 5}
    for bad in ({"a": "2", "b": 3}, {"a": 2}, {}):
        with pytest.raises(InvalidArgument, match=r"t\.add"):
            _call(guest, "t.add", **bad)
    got = mcp.aios("mcp", "call", "t", "add", '{"a": 1, "b": 1}')
    assert json.loads(got.stdout) == {"result": 2}
    info = json.loads(mcp.aios("tool", "show", "t.add", "--json").stdout)
    assert info["spec"]["effect"] == "irreversible", "its hints are not trusted"


def test_common_mistakes_have_a_hint(mcp: Machine) -> None:
    got = mcp.aios("mcp", "add", "new", sys.executable, "server.py")
    assert got.returncode == 1 and f"aios mcp add new -- {sys.executable} server.py" in got.stderr
    got = mcp.aios("mcp", "call", "t", "add", '{"a": 1}')
    assert got.returncode == 1 and "aios tool show t.add" in got.stderr
    (mcp.folder / "near.py").write_text(SERVER.read_text())
    near = ["--", sys.executable, "near.py", "stdio", str(mcp.folder)]
    assert mcp.aios("mcp", "add", "near", *near).returncode == 0, "a path relative to the caller"
    assert mcp.aios("mcp", "rm", "near").returncode == 0


def test_many_calls_at_once_use_one_server(mcp: Machine, guest: Connection) -> None:
    pid = _call(guest, "t.os_pid")
    ids = [guest.begin("tool.call", ToolCall("t.add", f'{{"a": {n}, "b": 1}}')) for n in range(50)]
    assert len(set(ids)) == 50
    assert _call(guest, "t.os_pid") == pid


def test_failures_are_typed_and_hide_keys(guest: Connection) -> None:
    with pytest.raises(ToolFailed) as caught:
        _call(guest, "t.fail")
    assert KEY not in str(caught.value)
    assert _call(guest, "t.leak") in ("it is [secret]", {"result": "it is [secret]"})
    with pytest.raises(ResourceExhausted):
        _call(guest, "t.flood")
    with pytest.raises(NotFound):
        _call(guest, "t.nothing")
    with pytest.raises(DeadlineExceeded):
        _call(guest, "t.slow", 0.3, seconds=1)


def test_a_server_that_dies_during_a_call_is_restarted(guest: Connection) -> None:
    pid = _call(guest, "t.os_pid")
    with pytest.raises(ToolUnavailable, match="died during the call"):
        _call(guest, "t.die")
    assert _call(guest, "t.os_pid") != pid


def test_a_server_that_dies_between_calls_is_restarted(guest: Connection) -> None:
    server = psutil.Process(_call(guest, "t.os_pid")["result"])
    worker = server.parent()
    server.kill()
    assert worker
    psutil.wait_procs([worker], TIMEOUT_S)
    assert _call(guest, "t.add", a=1, b=1) == {"result": 2}


def test_a_killed_worker_is_replaced(guest: Connection) -> None:
    worker = psutil.Process(_call(guest, "t.os_pid")["result"]).parent()
    assert worker
    beneath = worker.children(recursive=True)
    os.kill(worker.pid, signal.SIGKILL)
    assert psutil.wait_procs(beneath, TIMEOUT_S)[1] == []
    assert _call(guest, "t.add", a=1, b=1) == {"result": 2}


def test_a_server_that_changes_its_tools_is_revoked_until_approved(
    mcp: Machine, guest: Connection
) -> None:
    assert mcp.aios(*_add(mcp, "c")).returncode == 0
    extra = mcp.folder / "extra"
    with pytest.raises(ToolUnavailable):
        _call(guest, "c.die")
    extra.touch()
    try:
        for words in ("has changed its tools", "is revoked"):
            with pytest.raises(ToolUnavailable, match=words):
                _call(guest, "c.add", a=1, b=1)
        (info,) = [
            s for s in json.loads(mcp.aios("mcp", "ls", "--json").stdout) if s["name"] == "c"
        ]
        assert (info["state"], info["changes"]) == ("revoked", ["+ extra"])
        assert "aios mcp approve c" in mcp.aios("mcp", "ls").stderr
        assert mcp.aios("mcp", "approve", "c").returncode == 0
        assert _call(guest, "c.extra") == {"result": 1}
    finally:
        extra.unlink()
        assert mcp.aios("mcp", "rm", "c").returncode == 0
    with pytest.raises(NotFound):
        _call(guest, "c.add", a=1, b=1)


def test_streamable_http(mcp: Machine, guest: Connection) -> None:
    port = mcp.folder / "port"
    server = subprocess.Popen([sys.executable, str(SERVER), "http", str(mcp.folder)])
    try:
        wait_until(lambda: port.exists() and port.read_text(), "the server's port")
        url = f"http://127.0.0.1:{port.read_text()}/mcp"
        got = mcp.aios("mcp", "add", "web", "--url", url, "--header", "X-Key=${secret:mcpkey}")
        assert got.returncode == 0, got.stderr
        assert _call(guest, "web.add", a=2, b=3) == {"result": 5}
        server.kill()
        server.wait()
        with pytest.raises(ToolUnavailable):
            _call(guest, "web.add", a=2, b=3)
    finally:
        server.kill()
        server.wait()
        mcp.aios("mcp", "rm", "web")


def test_mcp_json_is_imported_and_an_edited_entry_needs_approval(stopped: Machine) -> None:
    command = [sys.executable, str(SERVER), "stdio", str(stopped.folder)]
    entry = {"command": command[0], "args": command[1:], "disabled": False}
    common = stopped.folder / "theirs.json"
    common.write_text(json.dumps({"mcpServers": {"x": entry}}))
    stopped.start("--model", "fake")
    assert stopped.aios("mcp", "add", "x", "--from", str(common)).returncode == 0
    kept = stopped.folder / "mcp.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    document = json.loads(kept.read_text())
    document["mcpServers"]["y"] = entry
    document["mcpServers"]["x"]["args"].append("more")
    kept.write_text(json.dumps(document))
    assert stopped.aios("daemon", "restart", "--model", "fake").returncode == 0
    states = {s["name"]: s["state"] for s in json.loads(stopped.aios("mcp", "ls", "--json").stdout)}
    assert states == {"x": "unapproved", "y": "unapproved"}
    assert stopped.aios("mcp", "call", "y", "add", '{"a": 1, "b": 1}').returncode == 1
    assert stopped.aios("mcp", "approve", "y").returncode == 0
    assert stopped.aios("mcp", "call", "y", "add", '{"a": 1, "b": 1}').returncode == 0
    kept.write_text("{broken")
    assert stopped.aios("daemon", "restart", "--model", "fake").returncode == 0
    assert "mcp.json" in stopped.aios("tool", "ls").stderr
    assert stopped.aios("mcp", "add", "z", "--", *command).returncode == 1
    assert kept.read_text() == "{broken"


@pytest.mark.parametrize("server", [
    McpServer(), McpServer(command="x", url="http://x"), McpServer(url="ftp://x"),
    McpServer(command="a\0b"), McpServer(command="/nonexistent"), McpServer(command="/bin/false"),
    McpServer(command="/bin/echo", args=["no protocol"]), McpServer(url="http://127.0.0.1:9/mcp"),
    McpServer(command="/bin/true", env={"K": "${secret:nosuch}"}),
])  # fmt: skip
def test_invalid_servers_are_refused(mcp: Machine, guest: Connection, server: McpServer) -> None:
    with operator(mcp) as connection:
        with pytest.raises((InvalidArgument, ToolUnavailable)):
            connection.call("mcp.add", McpAddRequest("bad", server))
        assert [s.name for s in connection.call("mcp.list", Empty()).servers] == ["t"]


def test_a_bad_server_affects_only_its_own_calls(mcp: Machine, guest: Connection) -> None:
    """One sends megabytes without an end of line, one has tools with bad or equal names."""
    bad = str(SERVER.with_name("bad_mcp_server.py"))
    for name, mode, timeout_s in (("wild", "plain", 3.0), ("odd", "names", TIMEOUT_S)):
        server = McpServer(sys.executable, [bad, mode, str(mcp.folder)], timeout_s=timeout_s)
        with operator(mcp) as connection:
            connection.call("mcp.add", McpAddRequest(name, server))

    def wild_works() -> bool:
        try:
            return bool(_call(guest, "wild.add", n=1) == "done")
        except DeadlineExceeded:  # a busy machine starts it too slowly for its short timeout
            return False

    try:
        with pytest.raises(DeadlineExceeded):
            _call(guest, "wild.flood")
        wait_until(wild_works, "the killed server to work again")
        assert _call(guest, "odd.a.b") == "done"
        with pytest.raises(NotFound):
            _call(guest, "odd.twice")
        assert "2 tools have this name" in mcp.aios("mcp", "ls").stderr
    finally:
        assert mcp.aios("mcp", "rm", "wild").returncode == 0
        assert mcp.aios("mcp", "rm", "odd").returncode == 0


def test_only_the_operator_manages_servers(guest: Connection) -> None:
    for name, body in (
        ("mcp.add", McpAddRequest("x", McpServer(command="x"))),
        ("mcp.remove", SourceRef("t")),
        ("mcp.approve", SourceRef("t")),
    ):
        with pytest.raises(PermissionDenied):
            guest.call(name, body)
