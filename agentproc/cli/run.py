"""``aios run``: start agents, attached to this terminal or detached.

An attached agent writes into FIFOs. This process copies them to its own output and to the agent's
log, and delivers every byte before it exits. The agent ends with this process, however that ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from aios.aio import AsyncConnection
from aios.session import Session
from aios.syscalls import codec, paths
from aios.syscalls.client import Credentials
from aios.syscalls.errors import AiosError
from aios.syscalls.types.process import (
    ExitStatus,
    RefRequest,
    SignalRequest,
    SpawnReply,
    SpawnRequest,
)

from . import daemonctl, order, out, waiting
from .command import CLASSES, Command, arg, flag

OWN_FAILURE = 125
_STOP_GRACE_S = 2.0
_READ_BYTES = 1 << 16
_COLOURS = (36, 33, 35, 32, 34, 31)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    try:
        specs = order.requests(options)
        _ensure_kernel()
        return asyncio.run(_Run(options, specs).main())
    except AiosError as error:
        out.complain(error)
        return error.exit_code if isinstance(error, order.CannotRun) else OWN_FAILURE


def _ensure_kernel() -> None:
    if paths.kernel_os_pid(paths.runtime_dir()) is None:
        print("aios: starting the kernel …", file=sys.stderr)
        daemonctl.start()


class _Run:
    """The agents of one command."""

    def __init__(self, options: argparse.Namespace, specs: Sequence[SpawnRequest]) -> None:
        self._options, self._specs = options, specs
        self._connection: AsyncConnection | None = None
        self._agents: list[SpawnReply] = []
        self._said = False
        """An agent has written something."""
        self._signals = 0
        self._signal = 0
        self._broken: OSError | None = None

    async def main(self) -> int:
        """Start all agents; wait for them unless they are detached."""
        session = Session(Credentials(paths.runtime_dir(), operator=True))
        self._connection = AsyncConnection(session)
        try:
            if self._options.detach:
                return await self._detached()
            with _private_folder() as folder:
                return await self._attached(folder)
        finally:
            self._connection.close()
            session.context().destroy(200)

    async def _detached(self) -> int:
        for spec in self._specs:
            self._agents.append(await self._spawn(spec))
        if self._options.json:
            out.as_json(self._agents)
        else:
            print("\n".join(f"{agent.pid}" for agent in self._agents))
        return 0

    async def _spawn(self, spec: SpawnRequest) -> SpawnReply:
        assert self._connection
        reply: SpawnReply = await self._connection.call("proc.spawn", spec)
        return reply

    async def _attached(self, folder: Path) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        waits: list[asyncio.Task[ExitStatus]] = []
        assert self._connection
        helpers = [loop.create_task(waiting.tell(self._connection, lambda: not self._said))]
        if any(spec.asks for spec in self._specs):
            from . import ask

            helpers.append(loop.create_task(ask.ask_all(self._connection)))
        try:
            for index, spec in enumerate(self._specs):
                waits.append(loop.create_task(await self._start(folder, index, spec)))
            statuses = await asyncio.gather(*waits)
        finally:
            for task in (*waits, *helpers):
                task.cancel()
        if self._options.json:
            out.as_json(statuses)
        if self._signal:
            return 128 + self._signal
        if isinstance(self._broken, BrokenPipeError):
            return 128 + signal.SIGPIPE
        if self._broken:
            out.complain(f"cannot write the output: {self._broken.strerror}",
                             "the agent was ended; what it wrote is in: aios logs")  # fmt: skip
            return OWN_FAILURE
        return next((s.exit_code for s in statuses if s.exit_code), 0)

    async def _start(self, folder: Path, index: int, spec: SpawnRequest):  # type: ignore[no-untyped-def]
        """Start one agent; return the coroutine that waits for it."""
        fifos = {name: folder / f"{index}.{name}" for name in ("stdout", "stderr")}
        readers = {}
        for name, fifo in fifos.items():
            os.mkfifo(fifo, 0o600)
            readers[name] = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        spec = msgspec.structs.replace(
            spec, stdout=str(fifos["stdout"]), stderr=str(fifos["stderr"])
        )
        agent = await self._spawn(spec)
        self._agents.append(agent)
        return self._follow(agent, index, readers)

    async def _follow(self, agent: SpawnReply, index: int, readers: dict[str, int]) -> ExitStatus:
        assert self._connection
        loop = asyncio.get_running_loop()
        prefix = self._prefix(agent.name, index)
        with Path(agent.log).open("ab", buffering=0) as log:
            copies = [
                _Copy(readers["stdout"], 2 if self._options.json else 1, log, prefix),
                _Copy(readers["stderr"], 2, log, prefix),
            ]
            for copy in copies:
                loop.add_reader(copy.fd, self._copy, copy)
            try:
                status: ExitStatus = await self._connection.call(
                    "proc.wait", RefRequest(str(agent.pid))
                )
            finally:
                for copy in copies:
                    loop.remove_reader(copy.fd)
                    self._finish(copy)
        return status

    def _copy(self, copy: _Copy) -> None:
        self._said = True
        try:
            if not copy.some():
                asyncio.get_running_loop().remove_reader(copy.fd)
        except OSError as error:  # it has no reader, or the disk is full
            asyncio.get_running_loop().remove_reader(copy.fd)
            self._broken = self._broken or error
            self._kill_all("kill")

    def _finish(self, copy: _Copy) -> None:
        try:
            while copy.some():
                pass
            copy.flush()
        except OSError as error:
            self._broken = self._broken or error
        os.close(copy.fd)

    def _prefix(self, name: str, index: int) -> bytes:
        if len(self._specs) == 1:
            return b""
        if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
            return f"\x1b[{_COLOURS[index % len(_COLOURS)]}m{name} |\x1b[0m ".encode()
        return f"{name} | ".encode()

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        self._signal = self._signal or number
        self._kill_all("stop" if self._signals == 1 else "kill")

    def _kill_all(self, action: str) -> None:
        for agent in self._agents:
            task = asyncio.get_running_loop().create_task(self._end(agent, action))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _end(self, agent: SpawnReply, action: str) -> None:
        assert self._connection
        request = codec.convert(
            {"ref": str(agent.pid), "action": action, "grace_s": _STOP_GRACE_S}, SignalRequest
        )
        with contextlib.suppress(AiosError):  # it has already ended
            await self._connection.call("proc.signal", request)


class _Copy:
    """One stream of an agent, copied to our descriptor and its log; with a prefix, line by line."""

    def __init__(self, fd: int, to: int, log: BinaryIO, prefix: bytes) -> None:
        self.fd, self._to, self._log, self._prefix = fd, to, log, prefix
        self._line = b""

    def some(self) -> bool:
        """Copy what can be read now. Return False if nothing can, or the stream has ended."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            return False
        with contextlib.suppress(OSError):  # a full disk must not end the agent
            self._log.write(data)
        if not self._prefix:
            _write(self._to, data)
            return True
        *lines, self._line = (self._line + data).split(b"\n")
        _write(self._to, b"".join(self._prefix + line + b"\n" for line in lines))
        return True

    def flush(self) -> None:
        """Write a last line that has no end."""
        if self._line:
            _write(self._to, self._prefix + self._line + b"\n")
            self._line = b""


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _private_folder():  # type: ignore[no-untyped-def]
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=paths.runtime_dir()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_DESCRIPTION = """Run Python files as agents. The first of these runs a file: the Python that
--python names; the environment that uv makes for the file's "# /// script" block; the active
virtual environment; "python" on the PATH, if it can import aios; the kernel's own Python.
See docs/install.md.
"""
_EPILOG = """exit codes: the agent's own; 125 aios failed, 126 the file cannot be run, 127 no such
file, 128+n killed by signal n; of several agents the first that is not 0. The words after -- are
the agent's arguments: aios run agent.py -- --its-option"""

COMMANDS = {
    "run": Command(do=run, json="print pids or exit codes as JSON",
                   shape={"description": _DESCRIPTION, "epilog": _EPILOG}, arguments=(
        arg("files", nargs="+", metavar="FILE"),
        flag("-d", "--detach", help="print the pid and return"),
        arg("--name", help="name of the agent (default: the file's)"),
        arg("--nice", type=int, default=0, help="-20 (highest priority) to 19"),
        arg("--class", dest="klass", choices=CLASSES, default="normal"),
        arg("--max-tokens", type=int, help="limit on tokens that it and its children generate"),
        arg("--weight", type=float, default=1.0, help="share of the model under the policy fair"),
        arg("--quota-tokens", type=int, help="limit on tokens computed in a minute"),
        arg("--quota-cells", type=int, help="limit on KV cells held at once"),
        arg("--timeout", type=float, metavar="SECONDS", help="kill it after this time"),
        arg("--group", help="privilege group (see: aios perm ls)"),
        arg("--allow", action="append", default=[], metavar="RULE",
            help="a right in addition to the group's, for example 'tool.call:web_*'"),
        arg("--deny", action="append", default=[], metavar="RULE",
            help="what it may not do, for example 'agent.spawn:*'"),
        arg("--env", action="append", default=[], metavar="NAME=VALUE"),
        arg("--model", help="model of its calls: a name or a GGUF file"),
        arg("--python", metavar="PATH", help="interpreter or environment that runs it"),
    )),
}  # fmt: skip
