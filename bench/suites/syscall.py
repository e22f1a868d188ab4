"""``syscall``: the null system call against a raw pyzmq echo of the same bytes, p50.

Both use ipc between two processes and take turns. ``idle``: nothing else runs; ``busy``: the core
decodes for another agent throughout.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

from aios.bench.rig.harness import WORKER, Machine, guest, kernel, progress
from aios.bench.rig.report import Report, percentiles, timed
from aios.syscalls import codec
from aios.syscalls.client import Connection
from aios.syscalls.table import BY_NAME
from aios.syscalls.types.common import Empty
from aios.syscalls.types.process import Pid, RefRequest, SignalRequest

CALLS = 1000
"""Round trips of each arm in each repeat."""
_BEGIN_TIMEOUT_S = 60.0
_ECHO = """
import sys, zmq
sock = zmq.Context().socket(zmq.ROUTER)
sock.bind(sys.argv[1])
reply = bytes.fromhex(sys.argv[2])
print("ready", flush=True)
while True:
    route, frame = sock.recv_multipart()
    sock.send_multipart((route, reply))
"""


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("syscall", {"seed": seed, "repeats": repeats, "calls": CALLS})
    lost = 0
    with kernel() as machine, _echo(machine.folder) as echo, guest() as connection:
        for repeat in range(repeats):
            for load in ("idle", "busy"):
                progress(f"repeat {repeat + 1}/{repeats}: {load}")
                with _decoding(machine) if load == "busy" else contextlib.nullcontext():
                    times = _alternate(echo, _getpid(connection))
                for arm, seconds in times.items():
                    lost += CALLS - len(seconds)
                    report.add(f"{arm}_{load}", **percentiles(seconds))
    for load in ("idle", "busy"):
        report.ratio(load, f"ours_{load}", f"raw_{load}", "p50_us")
    report.check("no_lost_replies", lost == 0)
    return report


def _alternate(raw: Callable[[], None], ours: Callable[[], None]) -> dict[str, list[float]]:
    """Time the two calls in turn, so that load on the machine affects both alike."""
    pairs = [(timed(raw), timed(ours)) for _ in range(CALLS)]
    return {"raw": [raw_s for raw_s, _ in pairs], "ours": [ours_s for _, ours_s in pairs]}


def _getpid(connection: Connection) -> Callable[[], None]:
    body = Empty()
    return lambda: connection.call("getpid", body) and None


@contextlib.contextmanager
def _echo(folder: Path) -> Iterator[Callable[[], None]]:
    """Run a ROUTER in another process that answers the bytes of getpid with those of its reply."""
    request = codec.encode_call(BY_NAME["getpid"].number, 1, None, Empty())
    reply = codec.encode_reply(1, codec.RESULT, Pid(1, "bench", 0))
    endpoint = f"ipc://{folder}/echo.sock"
    server = subprocess.Popen(
        [sys.executable, "-c", _ECHO, endpoint, reply.hex()], stdout=subprocess.PIPE
    )
    context: zmq.Context[Any] = zmq.Context()
    sock = context.socket(zmq.DEALER)
    try:
        assert server.stdout
        server.stdout.readline()
        sock.connect(endpoint)

        def call() -> None:
            sock.send(request)
            sock.recv()

        yield call
    finally:
        sock.close(0)
        context.term()
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()


@contextlib.contextmanager
def _decoding(machine: Machine) -> Iterator[None]:
    """Run an agent that generates for the duration of the block."""
    pipe = machine.folder / "begun"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        agent, _ = machine.spawn(WORKER, "--max-tokens", "4000", "--tell", str(pipe))
        if not select.select([reader], [], [], _BEGIN_TIMEOUT_S)[0]:
            raise RuntimeError(f"the busy agent did not start within {_BEGIN_TIMEOUT_S:g} s")
    finally:
        os.close(reader)
        pipe.unlink()
    yield
    machine.connection.call("proc.signal", SignalRequest(str(agent.pid), "kill"))
    machine.connection.call("proc.wait", RefRequest(str(agent.pid)))
