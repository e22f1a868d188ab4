"""Calls on tools: ``tool.*`` and ``mcp.*``."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from aios.kernel.access.manager import AccessManager
from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.kernel.process.table import ProcessTable
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import AiosError, InvalidArgument, NotFound, ToolUnavailable
from aios.syscalls.toolwire import JobDone, SourceChanged, SourceDescribed
from aios.syscalls.types import tool as tt
from aios.syscalls.types.common import Effect, Empty

from .files import Pin, ToolFiles, checked, config_digest
from .host import ToolHost
from .manager import Call, ToolCalls, answered
from .registry import Registry, Tool, source_of

_MCP_START_TIMEOUT_S = 60.0
_HOST = re.compile(r"[a-z0-9._:-]{1,253}")


class ToolHandlers:
    """Tools, called and kept; files are written in the worker's thread."""

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

    # ------------------------------------------------------------------ looking and calling

    def _list(self, call: Pending, _: Empty) -> None:
        self._when_ready(call, lambda: call.reply(self._tool_list(self._registry.all())))

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

    def _show(self, call: Pending, body: tt.ToolRef) -> None:
        self._when_ready(call, lambda: call.reply(self._info(self._registry.find(body.name))))

    def _when_ready(self, call: Pending, act: Callable[[], None]) -> None:
        """When all sources are known; later errors are replies, too."""
        call.defer(lambda error: None)

        def then() -> None:
            try:
                if not call.ended:
                    act()
            except AiosError as error:
                call.fail(error)

        self._registry.ready(then)

    def _call(self, call: Pending, body: tt.ToolCall) -> None:
        self._when_ready(call, lambda: self._start(call, body))

    def _start(self, call: Pending, body: tt.ToolCall) -> None:
        caller = call.caller.pid
        tool = self._registry.find(body.name)
        self._access.check(
            call.asker, "tool", "call", tool.name, tool.spec.effect, arguments=body.arguments
        )
        if tool.revoked:
            assert tool.source
            server = tool.source.name
            raise ToolUnavailable(
                f"{tool.name} is revoked: the MCP server {server} changed its tools",
                f"look at: aios mcp ls; allow it with: aios mcp approve {server}",
            )
        process = self._table.get(caller)
        name = process.name if process else "operator"

        def may_reach(host: str) -> None:
            if not _HOST.fullmatch(host):
                raise InvalidArgument(f"{host[:80]!r} is no host", "see: aios tool show fetch")
            effect: Effect = "read" if tool.spec.effect == "read" else "reversible"
            self._access.check(call.asker, "network", "connect", host, effect)

        self._calls.start(
            Call(call, tool, body.arguments, caller, name, call.asker.behalf, may_reach)
        )

    # ------------------------------------------------------------------ offers

    def _offer(self, call: Pending, body: tt.OfferRequest) -> None:
        process = self._table.caller(call.caller.pid)

        def act() -> None:
            self._access.check(call.asker, "tool", "offer", process.name, "reversible")
            self._registry.offer(process.pid, body.tools)
            self._calls.offers(process.pid)
            call.reply(Empty())

        self._when_ready(call, act)

    def _next(self, call: Pending, _: Empty) -> None:
        self._calls.next_work(self._table.caller(call.caller.pid).pid, call)

    def _answer(self, call: Pending, body: tt.ToolAnswer) -> Empty:
        outcome = answered(body.code, body.message) if body.code else tt.ToolReply(body.result)
        self._calls.answer(self._table.caller(call.caller.pid).pid, body.work, outcome)
        return Empty()

    # ------------------------------------------------------------------ sources and keys

    def _add(self, call: Pending, body: tt.SourceRequest) -> None:
        registry = self._registry
        registry.refuse_taken(body.name, body.kind)
        if not body.path.startswith("/") or "\0" in body.path:
            raise InvalidArgument(f"{body.path[:80]!r} is no whole path", "use: aios tool add FILE")

        def told(found: list[tt.ToolSpec] | AiosError) -> None:
            if isinstance(found, AiosError):
                if body.name not in registry.sources:
                    registry.problems.pop(body.name, None)
                call.fail(found)
                return
            registry.sources[body.name] = body
            mine = [x for x in registry.all() if x.source and x.source.name == body.name]
            self._save_sources(call, self._tool_list(mine))

        call.defer(lambda error: None)
        registry.ask(source_of(body), told)

    def _save_sources(self, call: Pending, reply: msgspec.Struct) -> None:
        sources = dict(self._registry.sources)
        self._keep(call, lambda: self._files.save_sources(sources), lambda: reply)

    def _remove(self, call: Pending, body: tt.SourceRef) -> None:
        if body.name not in self._registry.sources:
            raise NotFound(f"no file or API {body.name!r}", "list tools with: aios tool ls")
        del self._registry.sources[body.name]
        self._gone(body.name)
        call.defer(lambda error: None)
        self._save_sources(call, Empty())

    def _gone(self, name: str) -> None:
        self._registry.problems.pop(name, None)
        self._registry.hide(name)
        self._host.forget(name)

    def _secret(self, call: Pending, body: tt.SecretRequest) -> None:
        def done() -> Empty:
            users = [r.name for r in self._registry.sources.values() if r.secret == body.name]
            for name in [*users, *self._registry.servers]:
                self._host.forget(name)  # they have read the old one
            return Empty()

        call.defer(lambda error: None)
        self._keep(call, lambda: self._files.save_secret(body.name, body.value), done)

    def _keep(
        self, call: Pending, write: Callable[[], None], reply: Callable[[], msgspec.Struct]
    ) -> None:
        """Write in the worker's thread, then answer."""

        def done(outcome: Outcome[None]) -> None:
            try:
                outcome.result()
            except AiosError as error:
                call.fail(error)
            else:
                call.reply(reply())

        self._worker.submit(write, done)

    # ------------------------------------------------------------------ MCP servers

    def _mcp_list(self, _: Pending, __: Empty) -> tt.McpList:
        return tt.McpList([self._mcp_info(name) for name in sorted(self._registry.servers)])

    def _mcp_info(self, name: str) -> tt.McpInfo:
        server, pin = self._registry.servers[name], self._registry.pins.get(name)
        where = server.url or " ".join([server.command or "", *server.args])
        approved = pin is not None and pin.config_digest == config_digest(server)
        changes = pin.changes if pin and approved else []
        return tt.McpInfo(
            name, "http" if server.url else "stdio", where.partition("?")[0][:500],
            "unapproved" if not approved else "revoked" if changes else "ready",
            [spec.name for spec in pin.tools] if pin else [], pin.digest if pin else "",
            list(changes), list(pin.skipped) if pin else [],
        )  # fmt: skip

    def _mcp_add(self, call: Pending, body: tt.McpAddRequest) -> None:
        self._registry.refuse_taken(body.name, "mcp")
        server = checked(body.name, body.server)
        before = self._registry.servers.get(body.name)
        self._registry.servers[body.name] = server

        def undo() -> None:
            if before is None:
                self._registry.servers.pop(body.name, None)
                self._registry.problems.pop(body.name, None)
            else:
                self._registry.servers[body.name] = before
                self._registry.show_server(body.name)

        self._pin(call, body.name, undo, lambda: self._files.save_server(body.name, server))

    def _mcp_approve(self, call: Pending, body: tt.SourceRef) -> None:
        self._server(body.name)
        self._pin(call, body.name, lambda: self._registry.show_server(body.name), lambda: None)

    def _server(self, name: str) -> tt.McpServer:
        found = self._registry.servers.get(name)
        if found is None:
            raise NotFound(f"no MCP server {name!r}", "list them with: aios mcp ls")
        return found

    def _pin(
        self, call: Pending, name: str, undo: Callable[[], None], also: Callable[[], None]
    ) -> None:
        """Start the server, approve the tools that it has now, and keep that."""
        registry = self._registry

        def told(report: SourceDescribed | JobDone) -> None:
            if isinstance(report, JobDone) or report.error:
                undo()
                reason = report.message if isinstance(report, JobDone) else report.error
                call.fail(ToolUnavailable(f"MCP server {name}: {reason}",
                                          "mend its entry and add it again"))  # fmt: skip
                return
            if name not in registry.servers:
                call.fail(NotFound(f"MCP server {name} was removed meanwhile"))
                return
            config = config_digest(registry.servers[name])
            registry.pins[name] = Pin(
                report.digest, config, report.tools, skipped=report.skipped[:64]
            )
            registry.show_server(name)
            pins = dict(registry.pins)

            def write() -> None:
                also()
                self._files.save_pins(pins)

            self._keep(call, write, lambda: self._mcp_info(name))

        call.defer(lambda error: None)
        source = registry.server_source(name, "")
        self._host.describe(source, _MCP_START_TIMEOUT_S, told)

    def _mcp_remove(self, call: Pending, body: tt.SourceRef) -> None:
        self._server(body.name)
        del self._registry.servers[body.name]
        self._registry.pins.pop(body.name, None)
        self._gone(body.name)
        pins = dict(self._registry.pins)

        def write() -> None:
            self._files.save_server(body.name, None)
            self._files.save_pins(pins)

        call.defer(lambda error: None)
        self._keep(call, write, Empty)

    def on_changed(self, report: SourceChanged) -> None:
        """A server has other tools than those approved: all of it is revoked."""
        pin = self._registry.pins.get(report.name)
        if pin is None or report.digest == pin.digest or report.name not in self._registry.servers:
            return
        pin.changes = differences(pin.tools, report.tools)
        self._registry.show_server(report.name)
        pins = dict(self._registry.pins)
        self._worker.submit(lambda: self._files.save_pins(pins), lambda outcome: None)


def differences(before: list[tt.ToolSpec], now: list[tt.ToolSpec]) -> list[str]:
    """How tools differ, one line each; never empty."""
    old, new = {spec.name: spec for spec in before}, {spec.name: spec for spec in now}
    lines = [f"+ {name}" for name in sorted(new.keys() - old.keys())]
    lines += [f"- {name}" for name in sorted(old.keys() - new.keys())]
    for name in sorted(old.keys() & new.keys()):
        fields = [f for f in tt.ToolSpec.__struct_fields__
                  if getattr(old[name], f) != getattr(new[name], f)]  # fmt: skip
        if fields:
            lines.append(f"~ {name}: {', '.join(fields)}")
    return lines or ["its tools differ"]
