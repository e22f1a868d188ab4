"""Fleets of client processes, on a kernel or on llama-server, and the llama-server process."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from aios.hw.models import names
from aios.syscalls import paths
from aios.syscalls.types.process import RefRequest, SignalRequest

from .client import Order
from .harness import Machine
from .worker import WORDS

CLIENT = Path(__file__).with_name("client.py")
SERVER = Path(__file__).with_name("peer_server.py")


class PeerMissing(RuntimeError):
    """The environment of llama-server is not installed."""


class Fleet:
    """Connected clients that start their orders at the same moment."""

    def __init__(self, links: Sequence[Connection[Any, Any]]) -> None:
        self._links = links

    def __len__(self) -> int:
        return len(self._links)

    def send(self, index: int, order: Order) -> None:
        """Send one client its order."""
        self._links[index].send(order)

    def receive(self, index: int, *, failures: bool = False) -> dict[str, Any]:
        """Return one client's result. Raises RuntimeError if it failed, unless ``failures``."""
        result: dict[str, Any] = self._links[index].recv()
        if "error" in result and not failures:
            raise RuntimeError(f"client {index}: {result['error']}")
        return result

    def run(self, orders: Sequence[Order], *, failures: bool = False) -> list[dict[str, Any]]:
        """Give the first clients one order each; return their results when all have ended."""
        for index, order in enumerate(orders):
            self.send(index, order)
        return [self.receive(index, failures=failures) for index in range(len(orders))]


def makespan_s(results: Sequence[dict[str, Any]]) -> float:
    """Return the seconds from the first start to the last end."""
    return float(max(r["end_s"] for r in results) - min(r["start_s"] for r in results))


def rate(results: Sequence[dict[str, Any]]) -> float:
    """Return the tokens that all generated, per second of the makespan."""
    return float(sum(r["count"] for r in results) / makespan_s(results))


@contextlib.contextmanager
def agents(machine: Machine, count: int, **spawn: Any) -> Iterator[Fleet]:
    """Start clients as agents of a kernel; ``spawn``: fields of SpawnRequest."""
    with _listening() as (listener, address):
        started, links = [], []
        for index in range(count):
            name = spawn.get("name", "client")
            agent, _ = machine.spawn(
                CLIENT, address, "aios", **{**spawn, "name": f"{name}-{index}"}
            )
            started.append(agent)
            links.append(listener.accept())
        try:
            yield Fleet(links)
        finally:
            for link in links:
                link.close()
            for agent in started:
                with contextlib.suppress(Exception):
                    machine.connection.call("proc.signal", SignalRequest(str(agent.pid), "kill"))
                machine.connection.call("proc.wait", RefRequest(str(agent.pid)))


@contextlib.contextmanager
def http_clients(address: str, count: int) -> Iterator[Fleet]:
    """Start clients of an HTTP server, as plain processes."""
    with _listening() as (listener, socket):
        started, links = [], []
        for _ in range(count):
            started.append(subprocess.Popen([sys.executable, "-P", str(CLIENT), socket, "http",
                                             address]))  # fmt: skip
            links.append(listener.accept())
        try:
            yield Fleet(links)
        finally:
            for link in links:
                link.close()
            for process in started:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _listening() -> Iterator[tuple[Listener, str]]:
    with tempfile.TemporaryDirectory(prefix="aios-fleet-") as folder:
        address = os.path.join(folder, "s")
        with Listener(address, "AF_UNIX", backlog=256) as listener:
            yield listener, address


def peers_python() -> Path:
    """Return the Python of llama-server's environment. Raises PeerMissing if there is none."""
    folder = paths.cache_dir() / "peers"
    python = folder / "bin" / "python"
    probe = [str(python), "-c", "import xllamacpp"]
    if not python.exists() or subprocess.run(probe, capture_output=True).returncode:
        raise PeerMissing(
            "llama-server (the package xllamacpp) is not installed in its own environment\n"
            f"  install it with: {sys.executable} -m venv {folder} && "
            f"{folder}/bin/pip install xllamacpp"
        )
    return python


@contextlib.contextmanager
def llama_server(
    seats: int, context: int, threads: int, kv: str | None = None, *, unified: bool = False
) -> Iterator[str]:
    """Run llama-server on the default model; yield host:port.

    ``kv``: KV type, or None for its default; ``unified``: all slots share ``seats * context``
    cells. Raises RuntimeError if it does not start."""
    wanted = {"model": names.resolve("default", Path()), "seats": seats, "context": context,
              "threads": threads, "kv": kv, "unified": unified}  # fmt: skip
    process = subprocess.Popen(
        [str(peers_python()), str(SERVER), json.dumps(wanted)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("llama-server did not start")
        yield str(json.loads(line)["address"]).removeprefix("http://")
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def words(count: int, seed: int) -> str:
    """Return random words, about one token each."""
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def chat(text: str, system: str | None = None) -> list[dict[str, str]]:
    """Return a conversation of one turn."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": text}]
