"""``python -m aios.toolhost.mcp_worker``: one MCP server, by stdio or streamable HTTP.

Only this module and ``mcp_transport`` import the MCP SDK. The dispatcher is on descriptor 3. The
first order starts the server; its tools are compared with the approved ones before any call, and
again when the server announces a change. When the server ends or hangs, this process ends, and the
next call starts both again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import mcp
import msgspec
from mcp.client.stdio import StdioServerParameters

from aios.boot.tree import children
from aios.syscalls import codec
from aios.syscalls.errors import (
    AiosError,
    DeadlineExceeded,
    NotFound,
    ResourceExhausted,
    ToolFailed,
    ToolUnavailable,
)
from aios.syscalls.toolwire import (
    DescribeSource,
    JobDone,
    Message,
    RunTool,
    Source,
    SourceChanged,
    SourceDescribed,
    StopJob,
    encode,
    take,
)
from aios.syscalls.types.tool import MAX_JSON_BYTES, MAX_TOOLS, McpServer, ToolSpec

from . import mcp_transport
from .schema import Check, compile_check
from .secrets import Secrets

_START_TIMEOUT_S = 45.0
_MAX_PAGES = 50
"""Limit on the pages of a server's list of tools."""
_PING_TIMEOUT_S = 0.5


class Server:
    """The connection to the server, and its tools."""

    def __init__(self, source: Source, client: mcp.Client, secrets: Secrets) -> None:
        self._source, self._client, self._secrets = source, client, secrets
        self._config = msgspec.json.decode(source.config, type=McpServer)
        self.specs: list[ToolSpec] = []
        self.skipped: list[str] = []
        self.digest = ""
        self._checks: dict[str, Check] = {}

    async def list_tools(self) -> None:
        """List the tools that it has now. Raises AiosError."""
        found: list[Any] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if not cursor or len(found) > MAX_TOOLS:
                break
        if len(found) > MAX_TOOLS:
            raise ToolUnavailable(f"it has more than {MAX_TOOLS} tools")
        self.specs, self.skipped, plain = [], [], []
        for tool in found:
            plain.append(tool.model_dump_json(by_alias=True, exclude_none=True))
            try:
                self.specs.append(self._spec(tool))
            except AiosError as error:
                self.skipped.append(f"{tool.name[:80]!r}: {error.message[:300]}")
        self._drop_duplicates()
        self.digest = hashlib.sha256("\n".join(sorted(plain)).encode()).hexdigest()
        self._checks.clear()

    def _drop_duplicates(self) -> None:
        """Skip all tools that share a name: a call could mean any of them."""
        counts = Counter(spec.name for spec in self.specs)
        self.skipped += [
            f"{name!r}: {n} tools have this name" for name, n in counts.items() if n > 1
        ]
        self.specs = [spec for spec in self.specs if counts[spec.name] == 1]

    def _spec(self, tool: Any) -> ToolSpec:
        """Return a tool's declaration. Raises InvalidArgument if its name or schema is invalid."""
        hints = tool.annotations if self._config.trustHints else None
        effect = "irreversible"
        if hints and hints.read_only_hint:
            effect = "read"
        elif hints and hints.destructive_hint is False:
            effect = "reversible"
        spec = codec.convert({
            "name": tool.name, "description": (tool.description or tool.title or "")[:8192],
            "parameters": json.dumps(tool.input_schema), "effect": effect,
            "idempotent": bool(hints and (hints.idempotent_hint or hints.read_only_hint)),
            "concurrency": 16, "timeout_s": self._config.timeout_s,
        }, ToolSpec)  # fmt: skip
        compile_check(tool.name, tool.input_schema)
        return spec

    async def call(self, name: str, arguments: str, timeout_s: float) -> str:
        """Call a tool. Return its result as JSON text. Raises AiosError."""
        check = self._checks.get(name)
        if check is None:
            spec = next((spec for spec in self.specs if spec.name == name), None)
            if spec is None:
                raise NotFound(f"the server has no tool {name!r}", "see: aios mcp ls")
            check = self._checks[name] = compile_check(name, json.loads(spec.parameters))
        values = check(arguments)
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._client.call_tool(name, values)
        except TimeoutError:
            raise DeadlineExceeded(
                f"it ran longer than {timeout_s:g} s and was cancelled"
            ) from None
        text = self._secrets.hide(_plain(result))
        if getattr(result, "is_error", False):
            raise ToolFailed(f"{name} failed: {text[:3000]}")
        if len(text.encode()) > MAX_JSON_BYTES:
            raise ResourceExhausted(
                f"{name} returned {len(text.encode()):,} bytes; the limit is {MAX_JSON_BYTES:,}",
                "ask for less, or in parts",
            )
        return text

    async def answers(self) -> bool:
        """Return True if the server answers a ping."""
        try:
            async with asyncio.timeout(_PING_TIMEOUT_S):
                await self._client.send_ping()
        except TimeoutError:
            return False
        except mcp.MCPError:  # also an answer
            return True
        return True


def _plain(result: Any) -> str:
    """Return the structured content if any, the text if all parts are texts, or the parts."""
    if getattr(result, "structured_content", None) is not None:
        return json.dumps(result.structured_content)
    parts = [part.model_dump(mode="json", by_alias=True, exclude_none=True)
             for part in getattr(result, "content", [])]  # fmt: skip
    if all(part.get("type") == "text" for part in parts):
        return json.dumps("\n".join(part["text"] for part in parts))
    return json.dumps(parts)


class Worker:
    """Serves orders, many calls at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._secrets = sock, Secrets()
        self._inbox = bytearray()
        self._server: Server | None = None
        self._source: Source | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changed = False
        self._lists: set[asyncio.Task[None]] = set()
        self._errors = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed by main

    async def main(self) -> None:
        """Serve until the dispatcher or the server is gone."""
        first = await self._next()
        if not isinstance(first, RunTool | DescribeSource):
            return
        self._source = first.source
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(_START_TIMEOUT_S):
                    client = await stack.enter_async_context(
                        _client(self._connect(), self._on_notification)
                    )
                    server = Server(first.source, client, self._secrets)
                    await server.list_tools()
                if isinstance(first, DescribeSource):
                    self._say(
                        SourceDescribed(first.job, server.specs, server.digest, server.skipped)
                    )
                    return
                self._server = server
                await self._serve(first)
        except (Exception, BaseExceptionGroup) as error:  # the SDK may raise anything
            self._fail_all(first, error)
        finally:
            self._errors.close()

    def _connect(self) -> Any:
        assert self._source
        config = msgspec.json.decode(self._source.config, type=McpServer)
        if config.url:
            headers = self._secrets.fill(config.headers)
            timeout = httpx2.Timeout(30.0, read=config.timeout_s + 5.0)
            return mcp_transport.http(config.url, headers, timeout)
        kept = {k: v for k, v in os.environ.items() if k not in ("AIOS_CONFIG", "XDG_DATA_HOME")}
        parameters = StdioServerParameters(
            command=config.command or "", args=config.args,
            env=kept | self._secrets.fill(config.env), cwd=config.cwd,
        )  # fmt: skip
        errors = os.fdopen(os.dup(self._errors.fileno()), "w")
        return mcp_transport.stdio(parameters, errors)

    async def _serve(self, first: RunTool) -> None:
        assert self._server
        if not self._approved():
            self._say(self._refused(first))
            return
        self._begin(first)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._child_ended)
        while (order := await self._next()) is not None:
            match order:
                case RunTool():
                    self._begin(order)
                case StopJob(job) if job in self._tasks:
                    self._tasks[job].cancel()

    def _approved(self) -> bool:
        """Return True if the tools are the approved ones; report a change otherwise."""
        assert self._server and self._source
        if not self._source.pin or self._server.digest == self._source.pin:
            return True
        self._say(SourceChanged(self._source.name, self._server.specs, self._server.digest))
        return False

    def _refused(self, order: RunTool) -> JobDone:
        name = order.source.name
        return JobDone(order.job, "", "TOOL_UNAVAILABLE",
                    f"the MCP server {name} has changed its tools since they were approved",
                    f"review them: aios mcp ls; allow them: aios mcp approve {name}")  # fmt: skip

    async def _on_notification(self, message: Any) -> None:
        if type(getattr(message, "root", message)).__name__ == "ToolListChangedNotification":
            task = asyncio.create_task(self._list_again())
            self._lists.add(task)
            task.add_done_callback(self._lists.discard)

    async def _list_again(self) -> None:
        if self._server:
            try:
                await self._server.list_tools()
                self._changed = not self._approved()
            except (Exception, BaseExceptionGroup):  # the next call starts the server again
                self._changed = True
            self._ended(None)

    def _ended(self, job: int | None) -> None:
        """Remove a call that has ended. If the tools changed, leave after the last one."""
        self._tasks.pop(job or 0, None)
        if self._changed and not self._tasks:
            self._leave()

    def _begin(self, order: RunTool) -> None:
        task = asyncio.create_task(self._call(order))
        self._tasks[order.job] = task
        task.add_done_callback(lambda _: self._ended(order.job))

    async def _call(self, order: RunTool) -> None:
        assert self._server
        started_s = time.perf_counter()
        try:
            if not self._approved():
                self._say(self._refused(order))
                return
            result = await self._server.call(order.tool, order.arguments, order.timeout_s)
            done = JobDone(order.job, result, run_s=time.perf_counter() - started_s)
        except asyncio.CancelledError:
            self._say(JobDone(order.job, "", "CANCELLED", "cancelled; the server was notified"))
            raise
        except AiosError as error:
            hung = isinstance(error, DeadlineExceeded) and not await self._server.answers()
            if hung:  # the next call starts the server again
                asyncio.get_running_loop().call_soon(os._exit, 1)
            done = JobDone(order.job, "", error.code, self._secrets.hide(error.message)[:4096],
                        error.hint, run_s=time.perf_counter() - started_s, lost=hung)  # fmt: skip
        except (Exception, BaseExceptionGroup) as error:
            done = self._failure(order.job, error)
        self._say(done)

    def _failure(self, job: int, error: BaseException) -> JobDone:
        """Report a failed call. A broken connection means that the server is gone: leave, too."""
        error = _innermost(error)
        answered = isinstance(error, mcp.MCPError) and "onnection closed" not in str(error)
        if answered and self._server:
            return JobDone(job, "", "TOOL_FAILED", self._secrets.hide(str(error))[:4096])
        reason = "the MCP server died during the call" if self._server else "it does not start"
        if not self._server:
            if isinstance(error, TimeoutError):
                reason += f": no answer within {_START_TIMEOUT_S:g} s {self._last_words()}"
            else:
                reason += f": {type(error).__name__}: {error} {self._last_words()}"
        text = self._secrets.hide(reason.strip())
        asyncio.get_running_loop().call_soon(self._leave)
        return JobDone(job, "", "TOOL_UNAVAILABLE", text[:4096],
                    "the next call starts it again", lost=bool(self._server))  # fmt: skip

    def _child_ended(self) -> None:
        """Leave if the server died between calls: the next call then starts a new worker."""
        if not self._tasks and not any(map(_is_alive, children(os.getpid()))):
            self._leave()

    def _leave(self) -> None:
        for task in asyncio.all_tasks():
            task.cancel()

    def _last_words(self) -> str:
        """Return the end of the server's standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        data = os.pread(self._errors.fileno(), 2000, max(0, size - 2000))
        return data.decode("utf-8", "replace").strip()[-600:]

    def _fail_all(self, first: RunTool | DescribeSource, error: BaseException) -> None:
        done = self._failure(first.job, error)
        error = _innermost(error)
        if isinstance(error, AiosError):
            done = JobDone(first.job, "", error.code, error.message, error.hint)
        if isinstance(first, DescribeSource):
            self._say(SourceDescribed(first.job, [], error=done.message))
        elif self._server is None:
            self._say(done)

    async def _next(self) -> Message | None:
        loop = asyncio.get_running_loop()
        while (message := take(self._inbox)) is None:
            part = await loop.sock_recv(self._sock, 1 << 18)
            if not part:
                return None
            self._inbox += part
        return message

    def _say(self, report: JobDone | SourceDescribed | SourceChanged) -> None:
        data = encode(report)
        self._sock.setblocking(True)
        self._sock.sendall(data)
        self._sock.setblocking(False)


def _is_alive(os_pid: int) -> bool:
    try:
        return Path(f"/proc/{os_pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _client(transport: Any, handler: Any) -> mcp.Client:
    return mcp.Client(transport, message_handler=handler, mode="auto", cache=None)


def main() -> None:
    """Serve the dispatcher on descriptor 3."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()  # the SDK logs every line that is not a message, of any length
    sock = socket.socket(fileno=3)
    sock.setblocking(False)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(Worker(sock).main())
    sys.exit(0)


if __name__ == "__main__":
    main()
