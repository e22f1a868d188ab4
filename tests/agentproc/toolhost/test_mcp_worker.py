"""MCP servers that misbehave: each order is reported by its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from aios.syscalls.toolwire import (
    DescribeSource,
    JobDone,
    RunTool,
    Source,
    SourceChanged,
    SourceDescribed,
    encode,
    read,
)
from aios.toolhost import mcp_transport, mcp_worker
from tests.conftest import http_server

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect the transports that a worker leaves open: it relies on the end of its process."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


SERVER = Path(__file__).parents[2] / "e2e" / "tools" / "bad_mcp_server.py"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_worker, "_START_TIMEOUT_S", 1.0)
    monkeypatch.setattr(mcp_transport, "limit", lambda *_: None)  # it would limit this process


def _worker(sock: socket.socket) -> None:
    sock.setblocking(False)
    with contextlib.suppress(asyncio.CancelledError), sock:
        asyncio.run(mcp_worker.Worker(sock).main())


def _reports(config: dict[str, Any], *orders: str, pin: str = "") -> list[Any]:
    """Return a worker's reports: on its tools, or on each call in turn."""
    ours, theirs = socket.socketpair()
    source = Source("bad", "mcp", json.dumps({"timeout_s": 1.0, **config}), pin)

    def ask() -> list[Any]:
        buffer, found = bytearray(), list[Any]()
        calls: list[RunTool | DescribeSource] = [
            RunTool(n, source, name, '{"n": 1}', 1.0) for n, name in enumerate(orders)
        ]
        for order in calls or [DescribeSource(1, source)]:
            with contextlib.suppress(BrokenPipeError):
                ours.sendall(encode(order))
            while (report := read(ours, buffer)) is not None:
                found.append(report)
                if isinstance(report, JobDone | SourceDescribed):
                    break
        ours.shutdown(socket.SHUT_WR)
        return found

    with ThreadPoolExecutor(1) as pool, ours:
        asked = pool.submit(ask)
        _worker(theirs)  # handles signals, so it needs the main thread
        return asked.result(30)


def _stdio(mode: str, folder: Path) -> dict[str, Any]:
    return {"command": sys.executable, "args": [str(SERVER), mode, str(folder)]}


@pytest.mark.parametrize(("mode", "words"), [
    ("mute", "no answer within 1 s"), ("half", "no answer within 1 s"),
    ("many", "more than 256 tools"),
])  # fmt: skip
def test_errors_say_why_a_server_cannot_be_used(tmp_path: Path, mode: str, words: str) -> None:
    (report,) = _reports(_stdio(mode, tmp_path))
    assert words in report.error and report.tools == []


def test_lines_that_are_not_messages_are_skipped(tmp_path: Path) -> None:
    (report,) = _reports(_stdio("garbage", tmp_path))
    assert [tool.name for tool in report.tools] == ["add", "flood", "turn"]


def test_tools_that_cannot_be_called_are_listed_as_skipped(tmp_path: Path) -> None:
    (report,) = _reports(_stdio("names", tmp_path))
    assert [tool.name for tool in report.tools] == ["add", "a.b"]
    assert len(report.skipped) == 7 and "'twice': 2 tools have this name" in report.skipped
    (report,) = _reports(_stdio("schema", tmp_path))
    assert report.tools == [] and all("schema is invalid" in text for text in report.skipped)


def test_a_server_whose_schema_changes_between_calls_is_revoked(tmp_path: Path) -> None:
    (report,) = _reports(_stdio("plain", tmp_path))
    found = _reports(_stdio("plain", tmp_path), "turn", "add", pin=report.digest)
    assert any(isinstance(each, SourceChanged) and each.digest != report.digest for each in found)
    (*_, last) = _reports(_stdio("plain", tmp_path), "add", pin=report.digest)
    assert last.code == "TOOL_UNAVAILABLE" and "changed its tools" in last.message


class _Bad(BaseHTTPRequestHandler):
    """Answers every message as the path says."""

    over = threading.Event()

    def do_POST(self) -> None:
        if self.path == "/hang":
            self.over.wait(30)
            return
        self.send_response({"/redirect": 307, "/html": 200}.get(self.path, 500))
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        if self.path == "/drip":
            with contextlib.suppress(OSError):
                while not self.over.wait(0.05):
                    self.wfile.write(b": x\n\n")

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def http() -> Iterator[str]:
    _Bad.over.clear()
    with http_server(_Bad) as address:
        yield f"http://{address}"
        _Bad.over.set()


@pytest.mark.parametrize(("path", "words"), [
    ("/hang", "no answer within"), ("/redirect", "Redirect to http://127.0.0.1:1/ not followed"),
    ("/html", "content type"), ("/error", "it does not start"),
])  # fmt: skip
def test_http_servers_that_hang_or_redirect_are_errors(http: str, path: str, words: str) -> None:
    (report,) = _reports({"url": http + path})
    assert words in report.error
