"""``aios ps | logs | kill | stop | pause | resume | renice | wait``: list agents and control
them."""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from aios.syscalls import codec, inotify
from aios.syscalls.client import Connection
from aios.syscalls.errors import AiosError, InvalidArgument
from aios.syscalls.types.process import (
    ExitStatus,
    LogReply,
    ProcessInfo,
    PsRequest,
    RefRequest,
    ReniceRequest,
    SignalRequest,
)

from . import out
from .command import CLASSES, REF, Command, arg, flag
from .daemonctl import operator, system_call

_FOREVER_S = 7 * 24 * 3600.0
_PART_BYTES = 1 << 16


def ps(options: argparse.Namespace) -> int:
    """List the process table."""
    rows: list[ProcessInfo] = system_call("proc.ps", PsRequest(options.all)).processes
    if options.json:
        out.as_json(rows)
    elif options.quiet:
        print("\n".join(str(row.pid) for row in rows)) if rows else None
    else:
        out.table(
            ["pid>", "??ppid>", "name", "state", "?class", "??ni>", "??weight>", "??os pid>",
             "age>", "??calls>", "in>", "out>", "?ctx>", "??parks>", "??notes>", "??cpu>", "?rss>",
             "?waits", "exit>", "reason"],
            [_row(row) for row in rows],
        )  # fmt: skip
    return 0


def _row(row: ProcessInfo) -> list[str]:
    made = str(row.tokens_out) if row.max_tokens is None else f"{row.tokens_out}/{row.max_tokens}"
    return [
        str(row.pid), str(row.parent), row.name, row.state, row.klass, str(row.nice),
        f"{row.weight:g}", str(row.os_pid), out.duration(row.age_s), str(row.calls),
        str(row.tokens_in), made, _context(row), str(row.parks),
        f"{row.notes} {out.size(row.note_bytes)}" if row.notes else "0", f"{row.cpu_s:.1f}s",
        out.size(row.rss_bytes), _waits(row),
        "" if row.exit_code is None else str(row.exit_code), row.reason,
    ]  # fmt: skip


def _waits(row: ProcessInfo) -> str:
    """Return the tool that the oldest waiting call waits for, and the number of other calls."""
    more = f" +{len(row.waits) - 1}" if len(row.waits) > 1 else ""
    return f"{row.waits[0]}{more}" if row.waits else ""


def _context(row: ProcessInfo) -> str:
    """Return the tokens held and the limit."""
    return f"{row.context_tokens}/{row.window_tokens}" if row.window_tokens else "0"


def signal(options: argparse.Namespace) -> int:
    """Kill, stop, pause or resume agents."""
    grace: float = getattr(options, "grace", 10.0)
    return _each(options, "proc.signal", lambda ref: SignalRequest(ref, options.command, grace))


def renice(options: argparse.Namespace) -> int:
    """Change nice value, class, weight and quotas."""

    def wanted(ref: str) -> ReniceRequest:
        body = {"ref": ref, "nice": options.nice, "klass": options.klass,
                "weight": options.weight, "quota_tokens": options.quota_tokens,
                "quota_cells": options.quota_cells}  # fmt: skip
        return codec.convert(body, ReniceRequest)

    return _each(options, "proc.renice", wanted)


def _each(options: argparse.Namespace, call: str, body: Callable[[str], Any]) -> int:
    """Make a call for every REF; return 1 if one failed."""
    told = []
    with operator() as connection:
        for ref in options.refs:
            try:
                connection.call(call, body(ref))
                told.append({"ref": ref, "error": None})
            except AiosError as error:
                out.complain(error)
                told.append({"ref": ref, "error": error.code})
    if options.json:
        out.as_json(told)
    return int(any(each["error"] for each in told))


def wait(options: argparse.Namespace) -> int:
    """Wait for agents; return the exit code of the first that did not end with 0."""
    statuses: list[ExitStatus] = []
    with operator() as connection:
        for ref in options.refs:
            statuses.append(connection.call("proc.wait", RefRequest(ref), options.timeout))
    if options.json:
        out.as_json(statuses)
    return next((status.exit_code for status in statuses if status.exit_code), 0)


def logs(options: argparse.Namespace) -> int:
    """Write an agent's output; with --follow until it ends."""
    write = _json_lines if options.json else _as_it_is
    with operator() as connection:
        found: LogReply = connection.call("proc.log", RefRequest(options.ref))
        path = Path(found.path)
        if not path.exists():
            if not found.alive:
                return 0
            path.touch()
        with path.open("rb", buffering=0) as file:
            if options.follow and found.alive:
                write(_followed(connection, found, file.fileno()))
            else:
                write(iter(lambda: file.read(_PART_BYTES), b""))
    return 0


def _as_it_is(parts: Iterable[bytes]) -> None:
    for part in parts:
        sys.stdout.buffer.write(part)
        sys.stdout.flush()


def _json_lines(parts: Iterable[bytes]) -> None:
    """Write one JSON object per line; invalid UTF-8 is replaced."""
    begun = bytearray()
    for part in parts:
        *ended, last = part.split(b"\n")
        for line in ended:
            _json_line(begun + line)
            begun.clear()
        begun += last
        sys.stdout.flush()
    if begun:
        _json_line(begun)


def _json_line(line: bytearray) -> None:
    print(json.dumps({"line": line.decode("utf-8", "replace")}))


def _followed(connection: Connection, found: LogReply, fd: int) -> Iterator[bytes]:
    """Yield the file's content as it grows (inotify), until the kernel says that the agent has
    ended."""
    try:
        notify = inotify.watch(Path(found.path), inotify.MODIFY)
    except OSError as error:
        raise InvalidArgument(
            f"cannot watch {found.path}: {error.strerror}", "use: aios logs REF"
        ) from None
    ended = connection.begin("proc.wait", RefRequest(str(found.pid)), _FOREVER_S)
    try:
        over = False
        while not over:
            over = connection.poll(ended)
            while part := os.read(fd, _PART_BYTES):
                yield part
            if not over:
                ready, _, _ = select.select([notify, *connection.filenos()], [], [])
                if notify in ready:
                    os.read(notify, 4096)
    finally:
        os.close(notify)


_REFS = arg("refs", nargs="+", metavar="REF", help=REF)
_GRACE = arg("--grace", type=float, default=10.0, metavar="SECONDS", help="before the kill (10)")

COMMANDS = {
    "ps": Command(do=ps, arguments=(
        flag("-a", "--all", help="include dead agents"), flag("-q", "--quiet", help="pids only"),
    )),
    "logs": Command(do=logs, json="print one JSON object per line", arguments=(
        flag("-f", "--follow", help="until it ends"), arg("ref", metavar="REF", help=REF),
    )),
    "kill": Command(do=signal, arguments=(_REFS,)),
    "stop": Command(do=signal, arguments=(_REFS, _GRACE)),
    "pause": Command(do=signal, arguments=(_REFS,)),
    "resume": Command(do=signal, arguments=(_REFS,)),
    "renice": Command(do=renice, arguments=(
        arg("--weight", type=float, help="share of the model under the policy fair"),
        arg("--quota-tokens", type=int, help="tokens computed in a minute; 0: no limit"),
        arg("--quota-cells", type=int, help="KV cells held at once; 0: no limit"),
        arg("--nice", type=int, help="-20 (highest priority) to 19"),
        arg("--class", dest="klass", choices=CLASSES),
        _REFS,
    )),
    "wait": Command(do=wait, arguments=(
        _REFS, arg("--timeout", type=float, metavar="SECONDS"),
    )),
}  # fmt: skip
