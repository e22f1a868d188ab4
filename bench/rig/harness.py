"""A kernel for one suite, in temporary folders, and the agents started in it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import zmq

from aios.cli import daemonctl
from aios.cli.trace import read_all
from aios.hw.engine.engine import EngineSettings
from aios.hw.machine.huge_pages import engine_environment
from aios.hw.models import names
from aios.hw.tuning.exact_settings import plan
from aios.hw.tuning.idle_work import find_settings, tune_in_idle_time
from aios.syscalls import paths
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import KernelStatus, SchedRequest
from aios.syscalls.types.process import ExitStatus, RefRequest, SpawnReply, SpawnRequest
from aios.syscalls.types.trace import TraceReply

WORKER = Path(__file__).with_name("worker.py")


class Machine:
    """A running kernel, as its operator sees it."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        self.connection, self.folder = connection, folder
        self._outputs = 0

    def spawn(
        self, path: Path, *args: str, name: str | None = None, **more: Any
    ) -> tuple[SpawnReply, Path]:
        """Start an agent; return it and the file that receives its output."""
        self._outputs += 1
        output = self.folder / f"out-{self._outputs}"
        output.touch()
        reply: SpawnReply = self.connection.call("proc.spawn", SpawnRequest(
            path=str(path), args=list(args), cwd=str(self.folder), name=name,
            env={k: v for k, v in os.environ.items() if k != "AIOS_RUNTIME_DIR"},
            stdout=str(output), stderr=str(output), **more,
        ))  # fmt: skip
        return reply, output

    def wait(self, agent: SpawnReply, output: Path) -> str:
        """Wait for an agent to end; return its output. Raises RuntimeError if it failed."""
        status: ExitStatus = self.connection.call("proc.wait", RefRequest(str(agent.pid)))
        text = output.read_text()
        if status.exit_code:
            raise RuntimeError(f"agent {agent.name} ended with {status.exit_code}:\n{text}")
        return text

    def schedule(
        self,
        policy: str,
        quantum: int | None = None,
        width: int | None = None,
        chunk: int | None = None,
    ) -> None:
        """Set the policy, and optionally quantum, batch width and prompt chunk (all in tokens)."""
        self.connection.call("sched.set", SchedRequest(policy, quantum, width, chunk))

    def trace(self) -> TraceReply:
        """Return the slices and requests recorded since the last call."""
        return read_all(self.connection, clear=True)

    def status(self) -> KernelStatus:
        """Return the kernel's status."""
        reply: KernelStatus = self.connection.call("kernel.status", Empty())
        return reply


@contextlib.contextmanager
def kernel(
    flags: Sequence[str] = (), *, tuned: bool = False, data: Path | None = None
) -> Iterator[Machine]:
    """Run a kernel in temporary folders, with its model loaded.

    ``tuned``: as it comes out of the box, tuned. ``data``: an existing folder to use
    as XDG_DATA_HOME.
    """
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as name:
        folder = Path(name)
        home = {
            "AIOS_RUNTIME_DIR": folder / "run", "XDG_STATE_HOME": folder / "state",
            "XDG_CONFIG_HOME": folder / "config", "XDG_DATA_HOME": data or folder / "data",
        }  # fmt: skip
        saved = {key: os.environ.get(key) for key in home}
        os.environ.update({key: str(path) for key, path in home.items()})
        try:
            find_known_settings(flags, tuned=tuned)
            daemonctl.start([*flags, "--tune", "off", "--tuned", "on" if tuned else "off"])
            with daemonctl.operator() as connection:
                machine = Machine(connection, folder)
                warm, output = machine.spawn(WORKER, "--max-tokens", "1")
                machine.wait(warm, output)
                machine.trace()
                yield machine
        finally:
            daemonctl.stop(folder / "run")
            paths.audit_anchor(folder / "run").unlink(missing_ok=True)
            for key, value in saved.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


def find_known_settings(flags: Sequence[str], *, tuned: bool) -> None:
    """Have the model tested, and tuned if wanted, as a kernel does in its idle time."""
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    model = given.get("--model", "default")
    if not model.startswith("fake"):
        threads = given.get("--threads", "auto")
        settings = EngineSettings(
            path=names.resolve(model, Path()), exact=given.get("--exact") != "off",
            threads=int(threads) if threads.isdecimal() else None, look_up_tuned=tuned,
            seats=int(given.get("--seats", "8")),
            cache_dir=str(paths.cache_dir()),
        )  # fmt: skip
        if tuned and not plan(settings).tuned:
            tune_in_idle_time(settings, lambda text, percent: progress(text), quick=True)
        find_settings(settings)


@contextlib.contextmanager
def guest() -> Iterator[Connection]:
    """Connect to the kernel of ``kernel()`` as a guest."""
    context: zmq.Context[Any] = zmq.Context()
    try:
        with Connection(context, Credentials(paths.runtime_dir())) as connection:
            yield connection
    finally:
        context.term()


@contextlib.contextmanager
def bare_loop(
    seats: int, *, tuned: bool = False
) -> Iterator[Callable[[Sequence[str], int], dict[str, float]]]:
    """Run rawloop.py; yield a function (prompts, tokens of each) → its times in seconds."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "aios.bench.rig.rawloop", str(seats), str(paths.cache_dir()),
         *["tuned"] * tuned],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=engine_environment(),
    )  # fmt: skip
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout
    try:
        stdout.readline()

        def measure(prompts: Sequence[str], tokens: int) -> dict[str, float]:
            stdin.write(json.dumps({"prompts": list(prompts), "tokens": tokens}) + "\n")
            stdin.flush()
            times: dict[str, float] = json.loads(stdout.readline())
            return times

        yield measure
    finally:
        stdin.close()
        process.wait()
        stdout.close()


def progress(text: str) -> None:
    """Print a line of progress to standard error."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
