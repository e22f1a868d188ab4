"""``aios mcp add | ls | rm | call | approve``: MCP servers as the operator sees them."""

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
from .daemonctl import operator
from .tool import make_call

_FIELDS = ("command", "args", "env", "cwd", "type", "url", "headers", "trustHints", "timeout_s")
_FROM = 'it should be JSON like {"mcpServers": {"NAME": {"command": "..."}}}, with the NAME given'


def add(options: argparse.Namespace) -> int:
    """A server by command, URL, or from a file with the common JSON."""
    if options.words:
        command = shlex.join(options.words)
        raise InvalidArgument(
            "the server's command goes after --", f"aios mcp add {options.name} -- {command}"
        )
    entry = _from_file(options) if options.file else _from_words(options)
    if options.trust_hints:
        entry["trustHints"] = True
    request = codec.convert({"name": options.name, "server": entry}, McpAddRequest)
    with operator() as connection:
        info: McpInfo = connection.call("mcp.add", request)
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
    """All servers."""
    with operator() as connection:
        found: McpList = connection.call("mcp.list", Empty())
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
                f"allow it as it is now: aios mcp approve {server.name}",
            )


def rm(options: argparse.Namespace) -> int:
    """A server, and what was approved of it."""
    with operator() as connection:
        connection.call("mcp.remove", codec.convert({"name": options.name}, SourceRef))
    if options.json:
        out.as_json({"removed": options.name})
    return 0


def approve(options: argparse.Namespace) -> int:
    """Pin the server's tools as they are now."""
    with operator() as connection:
        request = codec.convert({"name": options.name}, SourceRef)
        info: McpInfo = connection.call("mcp.approve", request)
    _show(options, [info])
    return 0


def call(options: argparse.Namespace) -> int:
    """Call ``NAME.TOOL``."""
    return make_call(options, f"{options.name}.{options.tool}")
