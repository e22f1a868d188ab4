"""The tools that the tests call, and helpers for those tests."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import zmq

from aios.syscalls import paths
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.types.common import Empty
from aios.syscalls.types.process import PsRequest
from tests.conftest import Machine, operator
from tests.conftest import call_tool as _call

TOOLS = '''
import os, signal, subprocess, sys, time, threading
import aios

@aios.tool(effect="read", idempotent=True)
def double(n: int) -> int:
    """Twice a number."""
    print("doubling", n)
    return 2 * n

@aios.tool(timeout=0.5)
def hang() -> None:
    subprocess.Popen(["sleep", "1000"])
    time.sleep(1000)

@aios.tool(timeout=0.5)
def stubborn() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass

@aios.tool
def crash(how: str) -> None:
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(7)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "sysexit":
        sys.exit(3)
    if how == "raise":
        raise RuntimeError("its own words")
    if how == "recurse":
        crash.function("recurse")
    if how == "memory":
        bytearray(1 << 40)
    if how == "socket":
        os.write(3, b"\\xff" * 100)
        time.sleep(1000)

@aios.tool
def as_operator(runtime: str) -> str:
    got = subprocess.run([sys.executable, "-P", "-m", "aios.cli", "approvals", "ls"],
                         env={**os.environ, "AIOS_RUNTIME_DIR": runtime}, stderr=subprocess.PIPE)
    return f"{got.returncode} {got.stderr.decode()}"

@aios.tool
def loud(megabytes: int) -> int:
    for _ in range(megabytes):
        print("x" * (1 << 20))
    return megabytes

@aios.tool
def strange(kind: str) -> object:
    return {"object": object(), "set": {1}, "nan": float("nan"), "big": "x" * (1 << 21),
            "deep": eval("[" * 50 + "]" * 50)}[kind]

@aios.tool
def forks() -> int:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    return os.getpid()

@aios.tool(idempotent=True)
def dies_once(mark: str) -> str:
    if not os.path.exists(mark):
        open(mark, "w").close()
        os.abort()
    return "done"

@aios.tool
def dies_too(mark: str) -> str:
    return dies_once.function(mark)

@aios.tool(exclusive=True, timeout=60)
def alone(path: str, who: str, door: str = "") -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{who} in\\n".encode())
    if door:
        open(door).read()
    os.write(fd, f"{who} out\\n".encode())
    os.close(fd)

@aios.tool(exclusive=True, timeout=60)
def hold(fifo: str) -> str:
    return open(fifo).read()

@aios.tool
def environment() -> dict[str, str]:
    return dict(os.environ)
'''


def call_apart(machine: Machine, tool: str, **arguments: Any) -> Any:
    """Call a tool on a connection of its own, from any thread."""
    with Connection(zmq.Context.instance(), Credentials(machine.runtime)) as mine:
        return _call(mine, tool, **arguments)


def end_now(machine: Machine, name: str) -> None:
    """Kill an agent's host process."""
    with operator(machine) as connection:
        rows = connection.call("proc.ps", PsRequest()).processes
    os.kill(next(row.os_pid for row in rows if row.name == name), signal.SIGKILL)


def toolhost(machine: Machine) -> psutil.Process:
    kernel = psutil.Process(paths.kernel_os_pid(machine.runtime))
    return next(p for p in kernel.children() if "aios.toolhost" in p.cmdline())


def waits_of_agents(connection: Connection) -> dict[str, list[str]]:
    rows = connection.call("proc.ps", Empty()).processes
    return {row.name: row.waits for row in rows if row.waits}
