"""Keys of HTTP APIs, in a header and as bearer tokens: only the server sees them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
import zmq

from aios.syscalls import paths
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import InvalidArgument, ToolFailed, ToolUnavailable
from aios.syscalls.types.tool import SecretRequest, SourceRef, SourceRequest
from tests.conftest import Machine, call_tool, http_server, operator, shared_kernel

KEY = "s3cr3t-k3y~ with 'odd\" chars\\and=="
FORMS = (KEY, json.dumps(KEY)[1:-1], json.dumps(json.dumps(KEY))[1:-1], "s3cr3t-k3y")
SCHEMES: dict[str, tuple[dict[str, Any], str, str]] = {
    "header": ({"type": "apiKey", "in": "header", "name": "X-Shop-Key"}, "X-Shop-Key", KEY),
    "bearer": ({"type": "http", "scheme": "bearer"}, "Authorization", f"Bearer {KEY}"),
}
"""Security scheme of the document, and name and value of the header that the server gets."""

AGENT = """
import aios
print(aios.tools.list())
print(aios.tools.show("shop.getItem"))
print(aios.tools.call("shop.getItem", {"id": "7", "X-Trace": "t1"}))
for name in ("shop.fail", "shop.away", "shop.drop"):
    try: aios.tools.call(name, {})
    except aios.AiosError as error: print(name, repr(error), error.hint)
"""


def _document(scheme: dict[str, Any], url: str) -> dict[str, Any]:
    """Return an API document that also declares the key's header as a parameter, as many do."""
    header = {"in": "header", "schema": {"type": "string"}}
    return {
        "openapi": "3.0.3", "info": {"title": "t", "version": "1"}, "servers": [{"url": url}],
        "components": {"securitySchemes": {"k": scheme}}, "security": [{"k": []}],
        "paths": {
            "/items/{id}": {"get": {"operationId": "getItem", "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
                {"name": scheme.get("name", "authorization").lower(), "required": True, **header},
                {"name": "X-Trace", **header}]}},
            "/fail": {"get": {"operationId": "fail"}}, "/away": {"get": {"operationId": "away"}},
            "/drop": {"get": {"operationId": "drop"}},
        },
    }  # fmt: skip


class _Server(BaseHTTPRequestHandler):
    """A server that keeps the headers of each request and repeats them in its answer."""

    got: ClassVar[list[dict[str, str]]] = []
    lock = threading.Lock()

    def do_GET(self) -> None:
        with self.lock:
            self.got.append(dict(self.headers.items()))
        what = self.path.rpartition("/")[2]
        if what == "drop":
            self.wfile.write(f"no HTTP {KEY}\r\n\r\n".encode())
            return
        body = json.dumps({"headers": dict(self.headers.items()), "raw": KEY}).encode()
        self.send_response({"fail": 500, "away": 302}.get(what, 200), f"said {KEY}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", f"http://{self.headers['Host']}/items/{KEY}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with shared_kernel() as made:
        made.trust("tool.call:*", "network.connect:127.0.0.1")
        made.start("--model", "fake:end=0", "--embedder", "off")
        yield made


@pytest.fixture(params=list(SCHEMES))
def scheme(machine: Machine, request: pytest.FixtureRequest) -> Iterator[str]:
    """The API ``shop`` under one of the schemes, with its key stored."""
    _Server.got.clear()
    with http_server(_Server) as address:
        document = _document(SCHEMES[request.param][0], f"http://{address}")
        (machine.folder / "shop.json").write_text(json.dumps(document))
        path = str(machine.folder / "shop.json")
        with operator(machine) as connection:
            connection.call("tool.secret", SecretRequest("shopkey", KEY))
            connection.call("tool.add", SourceRequest("shop", "api", path, secret="shopkey"))
            yield request.param
            connection.call("tool.remove", SourceRef("shop"))


@pytest.fixture
def guest(machine: Machine, context: zmq.Context[Any]) -> Iterator[Connection]:
    with Connection(context, Credentials(machine.runtime)) as connection:
        yield connection


def _audit(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_STATE_HOME", machine.env["XDG_STATE_HOME"])
    files = sorted(paths.audit_dir(machine.runtime).iterdir())
    return "".join(file.read_bytes().decode("latin-1") for file in files)


def test_a_key_reaches_only_its_server(
    machine: Machine, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = machine.aios("run", machine.agent("shopper", AGENT))
    assert got.returncode == 0, got.stderr
    _, header, value = SCHEMES[scheme]
    assert [asked[header] for asked in _Server.got] == [value] * 4
    assert _Server.got[0]["X-Trace"] == "t1"
    assert "HTTP 500" in got.stdout and "HTTP 302" in got.stdout and "no response" in got.stdout
    assert "[secret]" in got.stdout
    audit = _audit(machine, monkeypatch)
    assert "shop.getItem" in audit
    seen = [
        got.stdout, got.stderr, audit, machine.log(), machine.aios("logs", "shopper").stdout,
        machine.aios("tool", "ls", "--json").stdout, machine.aios("audit").stdout,
        machine.aios("tool", "show", "shop.getItem", "--json").stdout,
        machine.aios("trace", "export").stdout,
    ]  # fmt: skip
    for text in seen:
        assert not [form for form in FORMS if form in text]
    kept = Path(machine.env["XDG_DATA_HOME"]) / "aios" / "tools"
    holding = [f.name for f in kept.rglob("*") if f.is_file() and "s3cr3t" in f.read_text()]
    assert holding == ["secrets.json"]


def test_an_agent_cannot_set_or_inject_into_the_key_header(
    machine: Machine, scheme: str, guest: Connection
) -> None:
    _, header, value = SCHEMES[scheme]
    for name in (header, header.lower(), header.upper()):
        with pytest.raises(InvalidArgument):
            call_tool(guest, "shop.getItem", **{"id": "1", name: "mine"})
    with pytest.raises(ToolFailed, match="no response") as caught:
        call_tool(guest, "shop.getItem", **{"id": "1", "X-Trace": "a\r\nX-Evil: 1"})
    assert not [form for form in FORMS if form in repr(caught.value)]
    assert _Server.got == []
    call_tool(guest, "shop.getItem", id="1")
    assert [v for k, v in _Server.got.pop().items() if k.lower() == header.lower()] == [value]
    with operator(machine) as connection:
        for key in ("two\nl1nes'of\"it", "carr1age\rreturn", "eur€pean"):
            connection.call("tool.secret", SecretRequest("shopkey", key))
            with pytest.raises(ToolUnavailable, match="'shopkey' has characters") as told:
                call_tool(guest, "shop.getItem", id="1")
            assert not [part for part in ("l1nes", "carr1age", "pean") if part in repr(told.value)]
    assert _Server.got == []
