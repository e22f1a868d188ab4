"""System calls on tools and their sources: ``tool.*`` and ``mcp.*``."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from aios.kernel.access.manager import AccessManager
from aios.kernel.access.principals import OPERATOR_NAME
from aios.kernel.loop.task import start
from aios.kernel.loop.worker import Worker
from aios.kernel.process.table import ProcessTable
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import Cancelled, InvalidArgument, NotFound, ToolUnavailable
from aios.syscalls.toolwire import SourceChanged
from aios.syscalls.types import tool as tt
from aios.syscalls.types.common import Effect, Empty

from .approval import Pin, config_digest, differences, state_of
from .manager import Call, ToolCalls, answered
from .registry import Registry, Tool, source_of
from .stored import ToolFiles, checked
from .toolhost_link import ToolHost

_MCP_START_TIMEOUT_S = 60.0
_HOST = re.compile(r"[a-z0-9._:-]{1,253}")


class ToolHandlers:
    """Handlers of the system calls. The worker thread writes the files."""

    def __init__(
        self,
        table: ProcessTable,
        access: AccessManager,
        registry: Registry,
        calls: ToolCalls,
        host: ToolHost,
        files: ToolFiles,
        worker: Worker,
    ) -> None:
        self._table, self._access = table, access
        self.registry = self._registry = registry
        self._calls, self._host, self._files, self._worker = calls, host, files, worker
        self.handlers: dict[str, Handler] = {
            "tool.list": self._list,
            "tool.show": self._show,
            "tool.call": self._call,
            "tool.offer": self._offer,
            "tool.next": self._next,
            "tool.answer": self._answer,
            "tool.add": self._add,
            "tool.remove": self._remove,
            "tool.secret": self._secret,
            "mcp.list": self._mcp_list,
            "mcp.add": self._mcp_add,
            "mcp.remove": self._mcp_remove,
            "mcp.approve": self._mcp_approve,
        }

    # ------------------------------------------------------------------ listing and calling

    async def _list(self, _: Pending, __: Empty) -> tt.ToolList:
        await self._registry.ready()
        return self._tool_list(self._registry.all())

    def _tool_list(self, tools: list[Tool]) -> tt.ToolList:
        problems = [f"{name}: {text}" for name, text in sorted(self._registry.problems.items())]
        return tt.ToolList([self._info(tool) for tool in tools], problems)

    def _info(self, tool: Tool) -> tt.ToolInfo:
        gate = self._calls.gate
        return tt.ToolInfo(
            msgspec.structs.replace(tool.spec, name=tool.name), tool.label,
            "revoked" if tool.revoked else "ready", gate.running(tool.name),
            gate.waiting(tool.name), tool.calls,
        )  # fmt: skip

    async def _show(self, _: Pending, body: tt.ToolRef) -> tt.ToolInfo:
        await self._registry.ready()
        return self._info(self._registry.find(body.name))

    async def _call(self, call: Pending, body: tt.ToolCall) -> tt.ToolReply:
        await self._registry.ready()
        _stop_if_ended(call)
        tool = self._registry.find(body.name)
        self._access.check(
            call.asker, "tool", "call", tool.name, tool.spec.effect, arguments=body.arguments
        )
        if tool.revoked:
            assert tool.source
            server = tool.source.name
            raise ToolUnavailable(
                f"{tool.name} is revoked: the MCP server {server} changed its tools",
                f"review them: aios mcp ls; allow them: aios mcp approve {server}",
            )
        process = self._table.get(call.caller.pid)
        name = process.name if process else OPERATOR_NAME

        def may_reach(host: str) -> None:
            if not _HOST.fullmatch(host):
                raise InvalidArgument(f"{host[:80]!r} is not a host", "see: aios tool show fetch")
            effect: Effect = "read" if tool.spec.effect == "read" else "reversible"
            self._access.check(call.asker, "network", "connect", host, effect)

        return await self._calls.run(
            Call(call, tool, body.arguments, call.caller.pid, name, may_reach)
        )

    # ------------------------------------------------------------------ offers

    async def _offer(self, call: Pending, body: tt.OfferRequest) -> Empty:
        process = self._table.caller(call.caller.pid)
        await self._registry.ready()
        _stop_if_ended(call)
        self._access.check(call.asker, "tool", "offer", process.name, "reversible")
        self._registry.offer(process.pid, body.tools)
        self._calls.offers(process.pid)
        return Empty()

    async def _next(self, call: Pending, _: Empty) -> tt.ToolWork:
        return await self._calls.next_work(self._table.caller(call.caller.pid).pid, call)

    def _answer(self, call: Pending, body: tt.ToolAnswer) -> Empty:
        answer = answered(body.code, body.message) if body.code else tt.ToolReply(body.result)
        self._calls.answer(self._table.caller(call.caller.pid).pid, body.work, answer)
        return Empty()

    # ------------------------------------------------------------------ sources and keys

    async def _add(self, _: Pending, body: tt.SourceRequest) -> tt.ToolList:
        registry = self._registry
        registry.refuse_taken(body.name, body.kind)
        if not body.path.startswith("/") or "\0" in body.path:
            raise InvalidArgument(
                f"{body.path[:80]!r} is not an absolute path", "use: aios tool add FILE"
            )
        try:
            await registry.ask(source_of(body))
        except ToolUnavailable:
            if body.name not in registry.sources:
                registry.problems.pop(body.name, None)
            raise
        registry.sources[body.name] = body
        mine = [x for x in registry.all() if x.source and x.source.name == body.name]
        reply = self._tool_list(mine)
        await self._save_sources()
        return reply

    async def _save_sources(self) -> None:
        sources = dict(self._registry.sources)
        await self._worker.run(lambda: self._files.save_sources(sources))

    async def _remove(self, _: Pending, body: tt.SourceRef) -> Empty:
        if body.name not in self._registry.sources:
            raise NotFound(f"no file or API {body.name!r}", "list tools with: aios tool ls")
        del self._registry.sources[body.name]
        self._forget(body.name)
        await self._save_sources()
        return Empty()

    def _forget(self, name: str) -> None:
        self._registry.problems.pop(name, None)
        self._registry.hide(name)
        self._host.forget(name)

    async def _secret(self, _: Pending, body: tt.SecretRequest) -> Empty:
        await self._worker.run(lambda: self._files.save_secret(body.name, body.value))
        users = [r.name for r in self._registry.sources.values() if r.secret == body.name]
        for name in [*users, *self._registry.servers]:
            self._host.forget(name)  # its workers hold the old key
        return Empty()

    # ------------------------------------------------------------------ MCP servers

    def _mcp_list(self, _: Pending, __: Empty) -> tt.McpList:
        return tt.McpList([self._mcp_info(name) for name in sorted(self._registry.servers)])

    def _mcp_info(self, name: str) -> tt.McpInfo:
        server, pin = self._registry.servers[name], self._registry.pins.get(name)
        where = server.url or " ".join([server.command or "", *server.args])
        state = state_of(pin, server)
        return tt.McpInfo(
            name, "http" if server.url else "stdio", where.partition("?")[0][:500],
            state, [spec.name for spec in pin.tools] if pin else [], pin.digest if pin else "",
            list(pin.changes) if pin and state == "revoked" else [],
            list(pin.skipped) if pin else [],
        )  # fmt: skip

    async def _mcp_add(self, _: Pending, body: tt.McpAddRequest) -> tt.McpInfo:
        registry, name = self._registry, body.name
        registry.refuse_taken(name, "mcp")
        server = checked(name, body.server)
        before = registry.servers.get(name)
        registry.servers[name] = server
        try:
            return await self._pin(name, lambda: self._files.save_server(name, server))
        except ToolUnavailable:
            if before is None:
                registry.servers.pop(name, None)
                registry.problems.pop(name, None)
            else:
                registry.servers[name] = before
                registry.show_server(name)
            raise

    async def _mcp_approve(self, _: Pending, body: tt.SourceRef) -> tt.McpInfo:
        self._require_server(body.name)
        try:
            return await self._pin(body.name, lambda: None)
        except ToolUnavailable:
            self._registry.show_server(body.name)
            raise

    def _require_server(self, name: str) -> None:
        if name not in self._registry.servers:
            raise NotFound(f"no MCP server {name!r}", "list them with: aios mcp ls")

    async def _pin(self, name: str, save: Callable[[], None]) -> tt.McpInfo:
        """Start a server, approve the tools that it has now, and save the approval. Raises
        ToolUnavailable if it does not start."""
        registry = self._registry
        try:
            report = await self._host.describe(
                registry.server_source(name, ""), _MCP_START_TIMEOUT_S
            )
        except ToolUnavailable as error:
            raise ToolUnavailable(
                f"MCP server {name}: {error.message}", "correct its entry and add it again"
            ) from None
        if name not in registry.servers:
            raise NotFound(f"MCP server {name} was removed in the meantime")
        config = config_digest(registry.servers[name])
        registry.pins[name] = Pin(report.digest, config, report.tools, skipped=report.skipped[:64])
        registry.show_server(name)
        await self._save_pins(save)
        return self._mcp_info(name)

    async def _save_pins(self, save: Callable[[], None]) -> None:
        pins = dict(self._registry.pins)

        def write() -> None:
            save()
            self._files.save_pins(pins)

        await self._worker.run(write)

    async def _mcp_remove(self, _: Pending, body: tt.SourceRef) -> Empty:
        self._require_server(body.name)
        del self._registry.servers[body.name]
        self._registry.pins.pop(body.name, None)
        self._forget(body.name)
        await self._save_pins(lambda: self._files.save_server(body.name, None))
        return Empty()

    def on_changed(self, report: SourceChanged) -> None:
        """Revoke a server whose tools differ from the approved ones."""
        pin = self._registry.pins.get(report.name)
        if pin is None or report.digest == pin.digest or report.name not in self._registry.servers:
            return
        pin.changes = differences(pin.tools, report.tools)
        self._registry.show_server(report.name)
        start(self._save_pins(lambda: None))


def _stop_if_ended(call: Pending) -> None:
    """Raises Cancelled if the call has ended while sources listed their tools."""
    if call.ended:
        raise Cancelled("the call ended while tools were listed")
