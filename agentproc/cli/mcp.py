"""``aios mcp add | ls | rm | call | approve``: MCP servers."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aios.syscalls import codec
from aios.syscalls.errors import InvalidArgument, NotFound
from aios.syscalls.types.common import Empty
from aios.syscalls.types.tool import McpAddRequest, McpInfo, McpList, SourceRef

from . import out
from .command import Command, arg, flag
from .daemonctl import system_call
from .tool import make_call

_FIELDS = ("command", "args", "env", "cwd", "type", "url", "headers", "trustHints", "timeout_s")
_FROM = 'it should be JSON like {"mcpServers": {"NAME": {"command": "..."}}}, with that NAME'


def add(options: argparse.Namespace) -> int:
    """Add a server by its command, its URL, or from a file of mcpServers JSON."""
    if options.words:
        command = shlex.join(options.words)
        raise InvalidArgument(
            "the server's command goes after --", f"aios mcp add {options.name} -- {command}"
        )
    entry = _from_file(options) if options.file else _from_words(options)
    if options.trust_hints:
        entry["trustHints"] = True
    request = codec.convert({"name": options.name, "server": entry}, McpAddRequest)
    info: McpInfo = system_call("mcp.add", request)
    _show(options, [info])
    return 0


def _from_words(options: argparse.Namespace) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if options.args:
        words = options.args
        entry |= {"command": words[0], "args": words[1:], "cwd": out.here()}
    if options.url:
        entry |= {"type": "http", "url": options.url}
    if options.env:
        entry["env"] = _pairs("--env", options.env)
    if options.header:
        entry["headers"] = _pairs("--header", options.header)
    return entry


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"{option} {name!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _from_file(options: argparse.Namespace) -> dict[str, Any]:
    try:
        entries = json.loads(Path(options.file).read_text(encoding="utf-8"))["mcpServers"]
        entry = entries[options.name]
        return {name: entry[name] for name in _FIELDS if name in entry}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgument(f"{options.file} cannot be used: {reason}", _FROM) from None
    except KeyError as error:
        raise NotFound(f"{options.file} has no {error}", _FROM) from None


def ls(options: argparse.Namespace) -> int:
    """List all servers."""
    found: McpList = system_call("mcp.list", Empty())
    _show(options, found.servers)
    return 0


def _show(options: argparse.Namespace, servers: Sequence[McpInfo]) -> None:
    if options.json:
        out.as_json(list(servers))
        return
    out.table(
        ["server", "?transport", "state", "?pin", "?where", "tools"],
        [[s.name, s.transport, s.state, s.pin[:12], s.where, " ".join(s.tools)] for s in servers],
    )
    for server in servers:
        for text in server.skipped:
            out.complain(f"{server.name}: not usable: {text}")
        if server.state != "ready":
            out.complain(
                f"{server.name} is {server.state}: {'; '.join(server.changes) or 'not pinned'}",
                f"approve it as it is now: aios mcp approve {server.name}",
            )


def rm(options: argparse.Namespace) -> int:
    """Remove a server and its approval."""
    system_call("mcp.remove", codec.convert({"name": options.name}, SourceRef))
    if options.json:
        out.as_json({"removed": options.name})
    return 0


def approve(options: argparse.Namespace) -> int:
    """Pin the server's tools as they are now."""
    request = codec.convert({"name": options.name}, SourceRef)
    info: McpInfo = system_call("mcp.approve", request)
    _show(options, [info])
    return 0


def call(options: argparse.Namespace) -> int:
    """Call the tool ``NAME.TOOL``."""
    return make_call(options, f"{options.name}.{options.tool}")


_NAME = arg("name", metavar="NAME")
_ADD_USAGE = "aios mcp add NAME [OPTIONS] [-- COMMAND ARGUMENT ...]"

COMMANDS = {"mcp": Command(actions={
    "add": Command("add a server, and approve its tools as they are now", add, (
        _NAME,
        arg("words", nargs="*", default=[], help=argparse.SUPPRESS),
        arg("--url", help="of a streamable HTTP server"),
        arg("--env", action="append", default=[], metavar="NAME=VALUE",
            help="VALUE may be ${secret:NAME}"),
        arg("--header", action="append", default=[], metavar="NAME=VALUE"),
        arg("--from", dest="file", metavar="FILE", help="read NAME from a file of mcpServers JSON"),
        flag("--trust-hints", help="believe the effects that its tools declare"),
    ), shape={"usage": _ADD_USAGE}),
    "ls": Command("list the servers, their state and tools", ls),
    "rm": Command("remove a server", rm, (_NAME,)),
    "call": Command("call a server's tool as the operator", call, (
        _NAME,
        arg("tool", metavar="TOOL"),
        arg("arguments", nargs="?", default="{}", metavar="JSON"),
        arg("--timeout", type=float, metavar="SECONDS"),
    )),
    "approve": Command("approve a server's tools as they are now", approve, (_NAME,)),
})}  # fmt: skip
