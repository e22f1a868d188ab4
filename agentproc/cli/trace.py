"""``aios trace export``: the schedule as Chrome trace JSON, for chrome://tracing or Perfetto.

One process for each model, one track for each agent: its slices, the parking and restoring of its
context, and its waits. Track 0 is the core itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aios.syscalls.client import Connection
from aios.syscalls.types.trace import RequestRecord, SliceRecord, TraceReply, TraceRequest

from . import daemonctl
from .command import Command, arg
from .out import complain

_MICRO = 1e6
_OPS = {"save": "park", "load": "restore", "copy": "share", "spill": "to file"}


def export(options: argparse.Namespace) -> int:
    """Write the kernel's records as a trace."""
    with daemonctl.operator() as connection:
        reply = read_all(connection)
    text = json.dumps({"traceEvents": list(events(reply)), "displayTimeUnit": "ms"})
    if not options.output:
        print(text)
        return 0
    path = Path(options.output)
    try:
        _write(path, text)
    except OSError as error:
        complain(f"cannot write {path}: {error.strerror}", "name another: --output FILE")
        return 1
    print(f"{path}: {len(reply.slices)} slices, {len(reply.requests)} requests; open it in "
          "https://ui.perfetto.dev", file=sys.stderr)  # fmt: skip
    return 0


def read_all(connection: Connection, *, clear: bool = False) -> TraceReply:
    """Read all records page by page: a day's records are larger than one message."""
    whole = TraceReply([], [], 0)
    seen: dict[str, tuple[int, int]] = {}
    while True:
        page: TraceReply = connection.call("trace.read", TraceRequest(seen, clear))
        whole.slices.extend(page.slices)
        whole.requests.extend(page.requests)
        if not page.more:
            return TraceReply(whole.requests, whole.slices, page.dropped)
        seen = page.seen


def _write(path: Path, text: str) -> None:
    """Write a file atomically; write directly to a pipe or device."""
    if path.exists() and not path.is_file():
        path.write_text(text)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def events(reply: TraceReply) -> Iterator[dict[str, Any]]:
    """Yield all events, in no particular order."""
    models = {name: number for number, name in enumerate(
        dict.fromkeys([*(s.model for s in reply.slices), *(r.model for r in reply.requests)]), 1
    )}  # fmt: skip
    tracks: dict[tuple[int, int], str] = {}
    busy: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for piece in reply.slices:
        number = models[piece.model]
        tracks[number, 0] = "core"
        for row in piece.rows:
            tracks.setdefault((number, row[0]), f"pid {row[0]}")
            busy[row[1]].append((piece.start_s, piece.end_s))
        yield from _slice(number, piece)
    for record in reply.requests:
        number = models[record.model]
        tracks[number, record.pid] = f"{record.name} ({record.pid})"
        yield from _waits(number, record, busy.get(record.request_id, []))
    for name, number in models.items():
        yield {"ph": "M", "pid": number, "name": "process_name", "args": {"name": name}}
    for (number, track), name in tracks.items():
        yield {"ph": "M", "pid": number, "tid": track, "name": "thread_name",
               "args": {"name": name}}  # fmt: skip


def _span(
    model: int, track: int, name: str, start_s: float, end_s: float, **more: Any
) -> dict[str, Any]:
    return {"ph": "X", "pid": model, "tid": track, "name": name, "ts": start_s * _MICRO,
            "dur": max(0.0, end_s - start_s) * _MICRO, "args": more}  # fmt: skip


def _slice(model: int, piece: SliceRecord) -> Iterator[dict[str, Any]]:
    at = piece.start_s
    for op in piece.ops:
        name = _OPS.get(op.kind, op.kind) + ("" if op.ok else " (failed)")
        yield _span(model, op.pid, name, at, at + op.seconds, request=op.request_id,
                    tokens=op.tokens, bytes=op.size_bytes)  # fmt: skip
        at += op.seconds
    yield _span(model, 0, f"slice of {len(piece.rows)}", piece.start_s, piece.end_s,
                steps=piece.steps)  # fmt: skip
    for pid, request, drawn, prompt in piece.rows:
        name = "prefill" if prompt and not drawn else "run"
        yield _span(model, pid, name, at, piece.end_s, request=request, generated=drawn,
                    prompt=prompt)  # fmt: skip


def _waits(
    model: int, record: RequestRecord, busy: list[tuple[float, float]]
) -> Iterator[dict[str, Any]]:
    """Yield the gaps between a request's slices."""
    at = record.timing.received_s
    end_s = at + record.timing.turnaround_s
    for start_s, stop_s in sorted(busy):
        if start_s > at:
            yield _span(model, record.pid, "wait", at, start_s, request=record.request_id)
        at = max(at, stop_s)
    if end_s > at:
        yield _span(model, record.pid, "wait", at, end_s, request=record.request_id)
    yield {"ph": "i", "s": "t", "pid": model, "tid": record.pid, "ts": end_s * _MICRO,
           "name": record.outcome, "args": {"request": record.request_id,
                                            "tokens": record.completion_tokens,
                                            "cached": record.cached_tokens}}  # fmt: skip


COMMANDS = {
    "trace": Command(do=export, json="the output is always JSON", arguments=(
        arg("action", choices=("export",)),
        arg("--output", metavar="FILE", help="instead of standard output"),
    )),
}  # fmt: skip
