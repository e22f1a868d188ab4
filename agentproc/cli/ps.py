"""``aios ps | logs | kill | stop | pause | resume | renice | wait``: agents, seen and acted on."""

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
from .daemonctl import operator

_FOREVER_S = 7 * 24 * 3600.0
_PART_BYTES = 1 << 16


def ps(options: argparse.Namespace) -> int:
    """The process table."""
    with operator() as connection:
        rows: list[ProcessInfo] = connection.call("proc.ps", PsRequest(options.all)).processes
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
    """The tool that its oldest waiting call waits for, and how many more there are."""
    more = f" +{len(row.waits) - 1}" if len(row.waits) > 1 else ""
    return f"{row.waits[0]}{more}" if row.waits else ""


def _context(row: ProcessInfo) -> str:
    """Tokens held, of how many there is room for."""
    return f"{row.context_tokens}/{row.window_tokens}" if row.window_tokens else "0"


def signal(options: argparse.Namespace) -> int:
    """kill, stop, pause and resume."""
    return _each(
        options, "proc.signal", lambda ref: SignalRequest(ref, options.action, options.grace)
    )


def renice(options: argparse.Namespace) -> int:
    """Nice value, class, weight and quotas."""

    def wanted(ref: str) -> ReniceRequest:
        body = {"ref": ref, "nice": options.nice, "klass": options.klass,
                "weight": options.weight, "quota_tokens": options.quota_tokens,
                "quota_cells": options.quota_cells}  # fmt: skip
        return codec.convert(body, ReniceRequest)

    return _each(options, "proc.renice", wanted)


def _each(options: argparse.Namespace, call: str, body: Callable[[str], Any]) -> int:
    """Every REF is tried; 1 if one of them failed."""
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
    """The exit code of the first agent that did not end with 0."""
    statuses: list[ExitStatus] = []
    with operator() as connection:
        for ref in options.refs:
            statuses.append(connection.call("proc.wait", RefRequest(ref), options.timeout))
    if options.json:
        out.as_json(statuses)
    return next((status.exit_code for status in statuses if status.exit_code), 0)


def logs(options: argparse.Namespace) -> int:
    """An agent's output, with -f until it ends."""
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
    """One JSON object a line; what is no UTF-8 is replaced."""
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
    """The file as it grows (told by inotify), until the agent's end (told by the kernel)."""
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
