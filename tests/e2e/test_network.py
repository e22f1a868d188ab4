"""Rights on hosts: which agents may reach which hosts with web fetch and HTTP API tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.conftest import Machine, http_server

from .test_approvals import Terminal

FAKE = ("--model", "fake:end=0")
CALL = """
import aios, json, sys
try:
    print(json.dumps(aios.tools.call(sys.argv[1], json.loads(sys.argv[2]))))
except aios.ConfirmationRequired as error:
    print("ask", error.approval)
except aios.AiosError as error:
    print(error.code, error)
"""


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        port = self.connection.getsockname()[1]
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", f"http://localhost:{port}/")
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def web() -> Iterator[str]:
    with http_server(_Pages) as address:
        yield f"http://{address}"


def _run(machine: Machine, tool: str, /, *flags: str, **arguments: str) -> str:
    agent = machine.agent("surfer", CALL)
    return machine.aios("run", *flags, agent, "--", tool, json.dumps(arguments)).stdout


def test_connecting_needs_a_right_for_each_host_and_redirect(stopped: Machine, web: str) -> None:
    stopped.start(*FAKE)
    got = _run(stopped, "fetch", url=web)
    assert got.startswith("PERMISSION_DENIED") and "no rule allows it" in got, got
    assert "aios perm grant surfer 'allow network.connect:127.0.0.1'" in got
    assert stopped.aios("perm", "grant", "surfer", "network:127.0.0.1").returncode == 0
    assert json.loads(_run(stopped, "fetch", url=web))["text"] == "hello"
    got = _run(stopped, "fetch", url=f"{web}/away")
    assert "may not connect network 'localhost'" in got, got
    got = _run(stopped, "fetch", "--deny", "network:127.0.0.1", url=web.replace("127.0.0", "127.0"))
    assert "deny network:127.0.0.1 (spawn deny)" in got, got
    stopped.aios("run", "-d", "--name", "surfer", stopped.agent("s", "import aios; aios.recv(600)"))
    explain = ("perm", "explain", "surfer", "network.connect:127.0.0.1")
    assert "allow network:127.0.0.1 (grant 1)" in stopped.aios(*explain).stdout
    assert stopped.aios("kill", "surfer").returncode == 0
    stopped.aios("wait", "surfer")
    for rule in ("network:127.0.0.1:80", "network:exämple.org"):  # fmt: skip
        assert "a host is in lower case" in stopped.aios("perm", "grant", "a", rule).stderr
    records = stopped.aios("audit", "--json", "-n", "0", "--agent", "surfer").stdout.splitlines()
    hosts = [r["name"] for r in map(json.loads, records) if r["kind"] == "network"]
    assert hosts == ["127.0.0.1", "127.0.0.1", "127.0.0.1", "localhost", "127.0.0.1"]
    with_key = {"openapi": "3.0.0", "servers": [{"url": web}],
                "paths": {"/x": {"get": {"operationId": "get"}}}}  # fmt: skip
    path = stopped.folder / "api.json"
    path.write_text(json.dumps(with_key))
    assert stopped.aios("tool", "add", "shop", str(path)).returncode == 0
    trust = ("--allow", "trust tool.call:shop.*")
    assert _run(stopped, "shop.get", *trust) == '"hello"\n'
    got = _run(stopped, "shop.get", *trust, "--name", "other")
    assert got.startswith("PERMISSION_DENIED") and "network.connect:127.0.0.1" in got
    assert "Traceback" not in stopped.log()


def test_a_host_under_an_ask_rule_needs_an_approval(stopped: Machine, web: str) -> None:
    stopped.start(*FAKE)
    stopped.aios("perm", "grant", "surfer", "ask network:*")
    word, number = _run(stopped, "fetch", url=web).split()
    assert word == "ask" and stopped.aios("approvals", "approve", number).returncode == 0
    assert _run(stopped, "fetch", url=f"{web}/other").startswith("ask"), "for these arguments only"
    assert json.loads(_run(stopped, "fetch", url=web))["text"] == "hello"
    assert _run(stopped, "fetch", url=web).startswith("ask")
    agent, url = stopped.agent("surfer", CALL), json.dumps({"url": f"{web}/third"})
    terminal = Terminal(stopped, "run", agent, "--", "fetch", url)
    assert "wants to connect network 127.0.0.1" in terminal.until("[y/N] ")
    terminal.type("y\n")
    assert terminal.ended() == 0 and '"text": "hello"' in terminal.text
    assert stopped.aios("call", "kernel.check").returncode == 0


def test_the_web_allow_setting_bounds_all_grants(stopped: Machine, web: str) -> None:
    got = stopped.aios("daemon", "up", *FAKE, "--web-allow", "a:80")
    assert got.returncode == 1 and "network:a:80" in got.stderr, got
    stopped.start(*FAKE, "--web-allow", "*.example.org, localhost")
    said = _run(stopped, "fetch", "--group", "trusted", url=web)
    assert said.startswith("PERMISSION_DENIED") and "[of the setting web_allow]" in said, said
    said = _run(stopped, "fetch", "--group", "trusted", url=web.replace("127.0.0.1", "localhost"))
    assert json.loads(said)["text"] == "hello"
    explained = stopped.aios("perm", "explain", "@trusted", "network.connect:127.0.0.1")
    assert explained.returncode == 1 and "denied: the setting web_allow" in explained.stdout
    explained = stopped.aios("perm", "explain", "@trusted", "network.connect:www.example.org")
    assert explained.returncode == 0 and "setting web_allow" in explained.stdout
