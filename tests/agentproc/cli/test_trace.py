"""The Chrome trace is well-formed and shows the whole schedule."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from aios.cli import trace
from aios.syscalls.types.chat import Timing
from aios.syscalls.types.trace import OpRecord, RequestRecord, SliceRecord, TraceReply


def _request(number: int, pid: int, received_s: float, turnaround_s: float) -> RequestRecord:
    timing = Timing(received_s, 0.0, 0.0, 0.0, turnaround_s, 1, 1, 0)
    return RequestRecord(number, pid, f"agent{pid}", "m", "done", 10, 5, "digest", timing, 3)


def _trace() -> list[dict[str, Any]]:
    slices = [
        SliceRecord("m", 1.0, 2.0, 4, [(7, 1, 0, 32), (8, 2, 4, 0)]),
        SliceRecord("m", 5.0, 6.0, 4, [(7, 1, 4, 0)],
                    [OpRecord("save", 8, 2, 40, 4096, 0.25, True),
                     OpRecord("load", 7, 1, 32, 4096, 0.25, False)]),
    ]  # fmt: skip
    requests = [_request(1, 7, 0.5, 5.5), _request(2, 8, 1.0, 6.0), _request(3, 9, 2.0, 1.0)]
    return list(trace.events(TraceReply(requests, slices, 0)))


def test_events_are_well_formed_and_tracks_have_names() -> None:
    named = {(e["pid"], e["tid"]) for e in _trace() if e.get("name") == "thread_name"}
    for event in _trace():
        assert event["ph"] in ("X", "M", "i") and isinstance(event["pid"], int)
        if event["ph"] != "M":
            assert (event["pid"], event["tid"]) in named
            assert event["ts"] >= 0 and event.get("dur", 0) >= 0
    names = {e["args"]["name"] for e in _trace() if e.get("name") == "thread_name"}
    assert names == {"core", "agent7 (7)", "agent8 (8)", "agent9 (9)"}


def test_the_trace_shows_parks_restores_and_every_wait() -> None:
    spans = {(e["tid"], e["name"]): (e["ts"] / 1e6, e["dur"] / 1e6)
             for e in _trace() if e["ph"] == "X"}  # fmt: skip
    assert spans[8, "park"] == (5.0, 0.25)
    assert spans[7, "restore (failed)"] == (5.25, 0.25)
    assert spans[7, "prefill"] == (1.0, 1.0) and spans[7, "run"] == (5.5, 0.5)
    assert spans[9, "wait"] == (2.0, 1.0), "a request that never ran"
    waits = [(e["tid"], e["ts"] / 1e6, e["dur"] / 1e6) for e in _trace() if e["name"] == "wait"]
    assert (7, 0.5, 0.5) in waits and (7, 2.0, 3.0) in waits
    assert (8, 2.0, 5.0) in waits, "it waits from its park to its end"


def test_writing_is_atomic_and_never_replaces_devices(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    trace._write(path, "[1]")
    trace._write(path, "[2]")
    assert path.read_text() == "[2]" and list(tmp_path.iterdir()) == [path]
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    trace._write(fifo, "[3]")
    assert os.read(reader, 10) == b"[3]" and fifo.is_fifo()
    os.close(reader)
    for bad in (tmp_path / "no" / "such", path / "below", tmp_path):
        with pytest.raises(OSError):
            trace._write(bad, "[]")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pipe", "t.json"]
