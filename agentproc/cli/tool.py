"""``aios tool ls | show | call | add | rm | secret``: tools."""

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
from .command import Command, arg, flag
from .daemonctl import system_call


def ls(options: argparse.Namespace) -> int:
    """List all tools, and the sources that have none."""
    found: ToolList = system_call("tool.list", Empty())
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
    """Show a tool with its schema."""
    info: ToolInfo = system_call("tool.show", codec.convert({"name": options.name}, ToolRef))
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
    """Call a tool; write its result to standard output and its prints to standard error."""
    return make_call(options, options.name)


def make_call(options: argparse.Namespace, name: str) -> int:
    """Call a tool, for ``tool call`` and ``mcp call``."""
    try:
        arguments = json.loads(options.arguments)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"the arguments are not JSON: {error}", f"see its parameters: aios tool show {name}"
        ) from None
    body = codec.convert({"name": name, "arguments": json.dumps(arguments)}, ToolCall)
    reply: ToolReply = system_call("tool.call", body, options.timeout)
    if options.json:
        out.as_json(reply)
        return 0
    print(reply.output, end="", file=sys.stderr)
    result = json.loads(reply.result)
    print(result if isinstance(result, str) else json.dumps(result, indent=2))
    return 0


def add(options: argparse.Namespace) -> int:
    """Add the tools of a Python file or an OpenAPI document."""
    path = Path(out.whole(options.path))
    request = {"name": options.name, "kind": "file" if path.suffix == ".py" else "api",
               "path": str(path), "base_url": options.url, "secret": options.secret,
               "trust_hints": options.trust_hints}  # fmt: skip
    if not path.is_file():
        why = "is not a regular file" if path.exists() else "no such file"
        raise InvalidArgument(f"{path}: {why}", "aios tool add NAME FILE")
    found: ToolList = system_call("tool.add", codec.convert(request, SourceRequest))
    _show_list(options, ToolList(found.tools, []))
    return 0


def rm(options: argparse.Namespace) -> int:
    """Remove a file or an API and all its tools."""
    system_call("tool.remove", codec.convert({"name": options.name}, SourceRef))
    if options.json:
        out.as_json({"removed": options.name})
    return 0


def secret(options: argparse.Namespace) -> int:
    """Store a key. It comes from standard input, so that no process list and no history has it."""
    value: str | None = None
    if not options.forget:
        ask = f"{options.name}: "
        value = getpass.getpass(ask) if sys.stdin.isatty() else sys.stdin.readline().strip()
        if not value:
            raise InvalidArgument("no key was given", f"aios tool secret {options.name} < FILE")
    request = codec.convert({"name": options.name, "value": value}, SecretRequest)
    system_call("tool.secret", request)
    if options.json:
        out.as_json({"secret": options.name, "kept": value is not None})
    return 0


_NAME = arg("name", metavar="NAME")

COMMANDS = {"tool": Command(actions={
    "ls": Command("list the tools", ls),
    "show": Command("show a tool's description, schema and limits", show, (_NAME,)),
    "call": Command("call a tool as the operator", call, (
        _NAME,
        arg("arguments", nargs="?", default="{}", metavar="JSON",
            help="for example '{\"expression\": \"6*7\"}'"),
        arg("--timeout", type=float, metavar="SECONDS"),
    )),
    "add": Command("add a Python file's @aios.tool functions, or an OpenAPI document", add, (
        _NAME,
        arg("path", metavar="FILE", help="a .py, or an OpenAPI document in JSON or YAML"),
        arg("--url", default="", help="the API's address, instead of the document's"),
        arg("--secret", default="", metavar="NAME", help="name of the key to send"),
        flag("--trust-hints", help="believe that GET changes nothing"),
    )),
    "rm": Command("remove a file or an API", rm, (_NAME,)),
    "secret": Command("store a key from standard input, or --forget it", secret, (
        _NAME, flag("--forget"),
    )),
})}  # fmt: skip
