"""Tools of an HTTP API: built from its document, called with a key that agents never see."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import zmq

from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import InvalidArgument, ToolFailed, ToolUnavailable
from aios.syscalls.types.tool import SourceRequest
from tests.conftest import Machine, http_server, operator, shared_kernel
from tests.conftest import call_tool as _call


@pytest.fixture(scope="module")
def tools() -> Iterator[Machine]:
    """A kernel where agents may call all tools and reach this machine."""
    with shared_kernel() as machine:
        machine.trust("tool.call:*", "network.connect:127.0.0.1")
        machine.start("--model", "fake:end=0")
        yield machine


@pytest.fixture
def guest(tools: Machine, context: zmq.Context[Any]) -> Iterator[Connection]:
    with Connection(context, Credentials(tools.runtime)) as connection:
        yield connection


KEY = "k3y/with+odd chars&so on"
DOCUMENT = {
    "openapi": "3.0.3", "info": {"title": "t", "version": "1"},
    "components": {
        "securitySchemes": {"k": {"type": "apiKey", "in": "query", "name": "token"}},
        "schemas": {"Item": {"type": "object", "properties": {"n": {"type": "integer"}},
                             "required": ["n"], "additionalProperties": False}},
    },
    "paths": {
        "/items/{id}": {
            "get": {"operationId": "getItem", "summary": "Get an item", "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
                {"name": "tags", "in": "query", "schema": {"type": "array",
                                                           "items": {"type": "string"}}}]},
            "put": {"operationId": "putItem", "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "requestBody": {"required": True, "content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/Item"}}}}},
        },
        "/fail": {"get": {"operationId": "fail"}}, "/away": {"get": {"operationId": "away"}},
    },
}  # fmt: skip


class _Api(BaseHTTPRequestHandler):
    """Echoes the request, with the key."""

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        said = {"path": self.path, "body": self.rfile.read(size).decode(), "key": KEY}
        status = {"/v1/fail": 500, "/v1/away": 302}.get(self.path.split("?")[0], 200)
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "http://example.org/")
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def api(tools: Machine) -> Iterator[str]:
    with http_server(_Api) as address:
        url = f"http://{address}/v1"
        path = tools.folder / "api.json"
        path.write_text(json.dumps({**DOCUMENT, "servers": [{"url": url}]}))
        got = tools.aios("tool", "add", "shop", str(path), "--secret", "shopkey", "--json")
        assert got.returncode == 0, got.stderr
        yield url
        assert tools.aios("tool", "rm", "shop").returncode == 0


def test_an_api_is_called_and_its_key_is_never_shown(
    tools: Machine, guest: Connection, api: str
) -> None:
    with pytest.raises(ToolUnavailable, match="is not stored"):
        _call(guest, "shop.getItem", id="1")
    assert tools.aios("tool", "secret", "shopkey", stdin=KEY + "\n").returncode == 0
    secrets = Path(tools.env["XDG_DATA_HOME"]) / "aios" / "tools" / "secrets.json"
    assert (
        secrets.stat().st_mode & 0o777 == 0o600 and KEY in json.loads(secrets.read_text()).values()
    )
    seen = [json.dumps(_call(guest, "shop.getItem", id="a/b?c", tags=["x", "y"]))]
    assert "/v1/items/a%2Fb%3Fc?tags=x&tags=y&token=[secret]" in seen[0]
    seen.append(json.dumps(_call(guest, "shop.putItem", id="1", body={"n": 3})))
    assert '{\\"n\\": 3}' in json.loads(json.dumps(seen[1]))
    for name in ("fail", "away"):
        with pytest.raises(ToolFailed, match=r"HTTP (500|302)") as caught:
            _call(guest, f"shop.{name}")
        seen.append(str(caught.value))
    for bad in ({"id": 1}, {}, {"id": "1", "token": "x"}):
        with pytest.raises(InvalidArgument):
            _call(guest, "shop.getItem", **bad)
    with pytest.raises(InvalidArgument, match="n"):
        _call(guest, "shop.putItem", id="1", body={"n": "3"})
    seen.append(tools.aios("tool", "show", "shop.getItem", "--json").stdout)
    seen.append(tools.aios("tool", "ls", "--json").stdout + tools.log())
    for text in seen:
        for form in (KEY, "k3y%2Fwith", "k3y/with"):
            assert form not in text


@pytest.mark.parametrize("document", [
    "not json", "[]", "{}", '{"openapi": "2.0"}', '{"openapi": "3.0.0", "paths": {}}',
    '{"openapi": "3.0.0", "servers": [{"url": "ftp://x"}], "paths": {"/": {"get": {}}}}',
    '{"openapi": "3.0.0", "servers": [{"url": "http://x"}], "paths": {"/": {"get": {"parameters":'
    ' [{"$ref": "http://evil/x"}]}}}}',
    '{"openapi": "3.0.0", "servers": [{"url": "http://x"}], "paths": {"/": {"get": {"parameters":'
    ' [{"name": "q", "in": "query", "schema": {"type": 7}}]}}}}',
])  # fmt: skip
def test_invalid_documents_are_refused(tools: Machine, document: str) -> None:
    (tools.folder / "bad.json").write_text(document)
    got = tools.aios("tool", "add", "bad", str(tools.folder / "bad.json"))
    assert got.returncode == 1 and "bad" in got.stderr


HEAD = "openapi: 3.0.0\nservers: [{url: http://x}]\npaths:\n"
LAUGHS = "".join(f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(("text", "words"), [
    (HEAD + "  /: {get: {parameters: [{$ref: 'other.yaml#/x'}]}}", "must point into the document"),
    (HEAD + "  /: {get: {parameters: [{$ref: '#/x'}]}}", "'#/x' leads nowhere"),
    (HEAD + "  /: {put: {requestBody: {content: {multipart/form-data: {}}}}}",
     "PUT /: a body of multipart/form-data"),
    (HEAD + "  /: {get: {parameters: [{name: f, in: query, style: deepObject}]}}", "'f' has a"),
    (HEAD + "  /{id}: {get: {}}", "'id' is not declared"),
    ("bomb:\n  - &a0 [x]\n" + LAUGHS, "each use of an alias"), ("a: &a [*a]", "alias"),
    ("x: !!python/object/apply:os.system [true]", "not YAML"), ("a: [", "not YAML"),
    ("x: " + "y" * (9 << 20), "longer than"), ("[" * 20_000, "not a valid"),
])  # fmt: skip
def test_errors_name_the_unsupported_part_of_an_api(tools: Machine, text: str, words: str) -> None:
    path = tools.folder / "bad.yaml"
    path.write_text(text)
    with operator(tools) as connection, pytest.raises(ToolUnavailable, match=re.escape(words)):
        connection.call("tool.add", SourceRequest("bad", "api", str(path)))


def test_an_api_in_yaml_is_called(tools: Machine, guest: Connection, api: str) -> None:
    path = tools.folder / "api.yaml"
    path.write_text(f"""
openapi: 3.1.0
servers: [{{url: {api}}}]
components: {{parameters: {{Day: {{name: day, in: query, schema: {{type: string,
  example: 2025-03-01}}}}}}}}
paths:
  /items: {{get: {{operationId: days, parameters: [{{$ref: '#/components/parameters/Day'}}]}}}}
""")
    got = tools.aios("tool", "add", "days", str(path))
    assert got.returncode == 0, got.stderr
    assert "day=2025-03-01" in _call(guest, "days.days", day="2025-03-01")["path"]
    assert tools.aios("tool", "rm", "days").returncode == 0
