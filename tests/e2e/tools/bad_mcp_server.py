"""An MCP server that misbehaves: ``bad_mcp_server.py MODE FOLDER``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

MODE, FOLDER = sys.argv[1], Path(sys.argv[2])
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
NAMES = ["add", "twice", "twice", "a b", "ü", "../x", "x" * 200, "", "a.b", "line\nend"]


def say(**message: Any) -> None:
    """Send one message to the client."""
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def listed(cursor: str | None) -> dict[str, Any]:
    """Return the tools, or a page of them."""
    if MODE == "many":
        page = int(cursor or 0)
        tools = [{"name": f"t{page}-{n}", "inputSchema": SCHEMA} for n in range(100)]
        return {"tools": tools, "nextCursor": str(page + 1)}
    if MODE == "names":
        return {"tools": [{"name": name, "inputSchema": SCHEMA} for name in NAMES]}
    if MODE == "pages":
        return {"tools": [], "nextCursor": "again"}
    schema = {**SCHEMA, "required": ["n"]} if (FOLDER / "changed").exists() else SCHEMA
    if MODE == "schema":
        schema = {"type": "object", "properties": {"n": {"type": "nothing"}}}
    return {"tools": [{"name": name, "inputSchema": schema} for name in ("add", "flood", "turn")]}


def called(name: str) -> dict[str, Any]:
    """Run a tool."""
    if name == "flood":
        for _ in range(2000):
            sys.stdout.write("x" * (1 << 20))  # no end of line
        time.sleep(1000)
    if name == "turn":
        (FOLDER / "changed").touch()
        say(method="notifications/tools/list_changed")
    return {"content": [{"type": "text", "text": "done"}]}


for line in sys.stdin:
    asked = json.loads(line)
    number, method, parameters = asked.get("id"), asked["method"], asked.get("params", {})
    if MODE == "mute":
        continue
    if MODE == "garbage":
        print('Starting...\n{"jsonrpc": "2.0", "id": 99, "result": {}}\n[1]\n\x00{', flush=True)
    if MODE == "half":
        sys.stdout.write("x" * (1 << 20))
        sys.stdout.flush()
        continue
    if method == "initialize":
        info = {"name": "bad", "version": "1"}
        say(id=number, result={"protocolVersion": parameters["protocolVersion"],
                               "capabilities": {"tools": {"listChanged": True}},
                               "serverInfo": info})  # fmt: skip
    elif method == "tools/list":
        say(id=number, result=listed(parameters.get("cursor")))
    elif method == "tools/call":
        say(id=number, result=called(parameters["name"]))
    elif number is not None:
        say(id=number, error={"code": -32601, "message": "no such method"})
