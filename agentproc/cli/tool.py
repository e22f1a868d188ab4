"""``aios tool ls | show | call | add | rm | secret``: tools as the operator sees them."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from pathlib import Path

from aios.syscalls import codec
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.common import Empty
from aios.syscalls.types.tool import (
    SecretRequest,
    SourceRef,
    SourceRequest,
    ToolCall,
    ToolInfo,
    ToolList,
    ToolRef,
    ToolReply,
)

from . import out
from .daemonctl import operator


def ls(options: argparse.Namespace) -> int:
    """All tools, and the sources that have none."""
    with operator() as connection:
        found: ToolList = connection.call("tool.list", Empty())
    _show_list(options, found)
    return 0


def _show_list(options: argparse.Namespace, found: ToolList) -> None:
    if options.json:
        out.as_json(found)
        return
    out.table(
        ["tool", "?source", "effect", "state", "?limit>", "?running>", "?waiting>", "?calls>",
         "what"],
        [_row(info) for info in found.tools],
    )  # fmt: skip
    for problem in found.problems:
        out.complain(problem)


def _row(info: ToolInfo) -> list[str]:
    spec = info.spec
    limit = "alone" if spec.exclusive else str(spec.concurrency)
    what = spec.description.partition("\n")[0][:60]
    return [spec.name, info.source, spec.effect, info.state, limit, str(info.running),
            str(info.waiting), str(info.calls), what]  # fmt: skip


def show(options: argparse.Namespace) -> int:
    """One tool, with its schema."""
    with operator() as connection:
        info: ToolInfo = connection.call(
            "tool.show", codec.convert({"name": options.name}, ToolRef)
        )
    if options.json:
        out.as_json(info)
        return 0
    spec = info.spec
    description = out.plain_lines(spec.description)
    print(f"{spec.name} ({info.source}, {info.state})\n\n{description}\n")
    again = "idempotent" if spec.idempotent else "not idempotent"
    limit = f"alone (lock {spec.exclusive})" if spec.exclusive else f"{spec.concurrency} at once"
    print(f"effect {spec.effect}, {again}, {limit}, timeout {spec.timeout_s:g} s\n")
    print(json.dumps(json.loads(spec.parameters), indent=2))
    return 0


def call(options: argparse.Namespace) -> int:
    """Call a tool; its result goes to standard output, what it printed to standard error."""
    return make_call(options, options.name)


def make_call(options: argparse.Namespace, name: str) -> int:
    """The call itself; ``mcp call`` makes the same."""
    try:
        arguments = json.loads(options.arguments)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"the arguments are no JSON: {error}", f"see what it takes: aios tool show {name}"
        ) from None
    body = codec.convert({"name": name, "arguments": json.dumps(arguments)}, ToolCall)
    with operator() as connection:
        reply: ToolReply = connection.call("tool.call", body, options.timeout)
    if options.json:
        out.as_json(reply)
        return 0
    print(reply.output, end="", file=sys.stderr)
    result = json.loads(reply.result)
    print(result if isinstance(result, str) else json.dumps(result, indent=2))
    return 0


def add(options: argparse.Namespace) -> int:
    """A Python file, or an OpenAPI document."""
    path = Path(out.whole(options.path))
    request = {"name": options.name, "kind": "file" if path.suffix == ".py" else "api",
               "path": str(path), "base_url": options.url, "secret": options.secret,
               "trust_hints": options.trust_hints}  # fmt: skip
    if not path.is_file():
        why = "is no ordinary file" if path.exists() else "no such file"
        raise InvalidArgument(f"{path}: {why}", "aios tool add NAME FILE")
    with operator() as connection:
        found: ToolList = connection.call("tool.add", codec.convert(request, SourceRequest))
    _show_list(options, ToolList(found.tools, []))
    return 0


def rm(options: argparse.Namespace) -> int:
    """A file or an API, and all tools of it."""
    with operator() as connection:
        connection.call("tool.remove", codec.convert({"name": options.name}, SourceRef))
    if options.json:
        out.as_json({"removed": options.name})
    return 0


def secret(options: argparse.Namespace) -> int:
    """A key comes from standard input, so that no process list and no history has it."""
    value: str | None = None
    if not options.forget:
        ask = f"{options.name}: "
        value = getpass.getpass(ask) if sys.stdin.isatty() else sys.stdin.readline().strip()
        if not value:
            raise InvalidArgument("no key was given", f"aios tool secret {options.name} < FILE")
    with operator() as connection:
        request = codec.convert({"name": options.name, "value": value}, SecretRequest)
        connection.call("tool.secret", request)
    if options.json:
        out.as_json({"secret": options.name, "kept": value is not None})
    return 0
