"""Inside a function worker: load one source's tools, then run one call after another.

Reports each call once, after ending every process that the tool left running.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.util
import json
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from aios.boot.tree import end_strays
from aios.syscalls import toolwire as wire
from aios.syscalls.errors import (
    AiosError,
    ErrorBody,
    NotFound,
    ToolFailed,
    ToolUnavailable,
    from_body,
)
from aios.syscalls.types.tool import MAX_TOOLS, ToolSpec
from aios.tool import Tool

from .reach import Reach


class Runnable(Protocol):
    """A tool that a worker can run: JSON text in, JSON text out. Raises AiosError."""

    @property
    def spec(self) -> ToolSpec: ...

    def run(self, arguments: str) -> str: ...


Tools = Mapping[str, Runnable]


def warm() -> None:
    """Import what most workers need, before the fork."""
    from aios.toolhost.standard import settings

    settings.names()


class Line:
    """The connection to the dispatcher. ``job``: number of the running job."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self._buffer, self.job = sock, bytearray(), 0

    def next(self) -> wire.Message | None:
        """Return the next message; None when the dispatcher is gone."""
        return wire.read(self.sock, self._buffer)

    def reach(self, host: str) -> None:
        """Ask whether the caller of the job may reach a host. Raises AiosError if not."""
        self.sock.sendall(wire.encode(wire.ReachRequest(self.job, host)))
        answer = self.next()
        if not isinstance(answer, wire.ReachAnswer):
            raise ToolUnavailable("the kernel is gone", "call again")
        if answer.code:
            raise from_body(ErrorBody(answer.code, answer.message, answer.hint))


def serve(sock: socket.socket, source: wire.Source) -> None:
    """Serve orders until the dispatcher is gone."""
    gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tools: Tools = {}
    problem: AiosError | None = None
    line = Line(sock)
    try:
        tools = load(source, line.reach)
    except AiosError as error:
        problem = error
    while (order := line.next()) is not None:
        if isinstance(order, wire.DescribeSource):
            sock.sendall(wire.encode(_described(order, tools, problem)))
        elif isinstance(order, wire.RunTool):
            line.job = order.job
            done = _done(order, tools, problem)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            end_strays(())
            sock.sendall(wire.encode(done))


def load(source: wire.Source, reach: Reach) -> Tools:
    """Load the tools of a source. Raises ToolUnavailable with the reason."""
    config: dict[str, Any] = json.loads(source.config)
    if source.kind == "std":
        from aios.toolhost.standard import settings

        return settings.tools(config, reach)
    if source.kind == "api":
        from . import openapi

        return openapi.tools(config, reach)
    return _from_file(source.name, Path(config["path"]))


def _from_file(name: str, path: Path) -> Tools:
    """Load the ``@aios.tool`` functions of a Python file, which is run as a module."""
    sys.path.insert(0, str(path.parent))
    module_spec = importlib.util.spec_from_file_location(f"aios_tools_{name}", path)
    if module_spec is None or module_spec.loader is None:
        raise ToolUnavailable(f"{path} is not a Python file", "name a file that ends in .py")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    try:
        module_spec.loader.exec_module(module)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # the file's code may raise anything
        raise ToolUnavailable(
            f"{path} cannot be loaded: {type(error).__name__}: {error}",
            "correct it and add it again: aios tool add",
        ) from None
    found = [value for value in vars(module).values() if isinstance(value, Tool)]
    if not found:
        raise ToolUnavailable(f"{path} has no functions with @aios.tool", "declare at least one")
    return {tool.spec.name: tool for tool in found}


def digest(tools: list[ToolSpec]) -> str:
    """Hash the declarations of tools, independent of their order."""
    text = json.dumps(msgspec.to_builtins(sorted(tools, key=lambda t: t.name)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _described(
    order: wire.DescribeSource, tools: Tools, problem: AiosError | None
) -> wire.SourceDescribed:
    if problem:
        return wire.SourceDescribed(order.job, [], error=str(problem.message))
    specs = [tool.spec for tool in tools.values()]
    if len(specs) > MAX_TOOLS:
        return wire.SourceDescribed(
            order.job, [], error=f"it has {len(specs)} tools; the limit is {MAX_TOOLS}"
        )
    return wire.SourceDescribed(order.job, specs, digest(specs))


def _done(order: wire.RunTool, tools: Tools, problem: AiosError | None) -> wire.JobDone:
    started_s = time.perf_counter()

    def took_s() -> float:
        return time.perf_counter() - started_s

    try:
        if problem:
            raise problem
        tool = tools.get(order.tool)
        if tool is None:
            raise NotFound(f"{order.source.name} has no tool {order.tool!r}", "see: aios tool ls")
        return wire.JobDone(order.job, tool.run(order.arguments), run_s=took_s())
    except AiosError as error:
        return _failed(order, error, took_s())
    except MemoryError:
        return _failed(order, ToolFailed(f"{order.tool} ran out of memory"), took_s())
    except BaseException as error:  # including a SystemExit of the tool
        reason = f"{order.tool} raised {type(error).__name__}: {error}"
        return _failed(order, ToolFailed(reason), took_s())


def _failed(order: wire.RunTool, error: AiosError, run_s: float) -> wire.JobDone:
    return wire.JobDone(
        order.job, "", error.code, error.message[:4096], error.hint[:1024], run_s=run_s
    )
