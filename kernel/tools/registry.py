"""The registry of tools: standard tools, tools of files, APIs and MCP servers, and agents' offers.

The toolhost lists a source's tools when they are first needed; an MCP server's are the approved
ones, so that it need not run. A tool of a file, API or server is named ``SOURCE.TOOL``; the names
of standard tools and of agents' offers have no dot, so they cannot clash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from aios.kernel.loop.task import Promise, start
from aios.syscalls.errors import AiosError, InvalidArgument, NotFound, ToolUnavailable
from aios.syscalls.suggest import did_you_mean
from aios.syscalls.toolwire import Source
from aios.syscalls.types.tool import McpServer, SourceRequest, ToolSpec

from .approval import Pin, state_of
from .stored import ToolFiles, one_line
from .toolhost_link import ToolHost

T = TypeVar("T")

STANDARD = "standard"
DESCRIBE_TIMEOUT_S = 30.0


@dataclass(eq=False)
class Tool:
    """A tool and its full name. ``owner``: pid of the agent that offers it, or 0."""

    name: str
    spec: ToolSpec
    label: str
    source: Source | None = None
    owner: int = 0
    revoked: bool = False
    calls: int = 0

    @property
    def lock(self) -> str:
        """The exclusive lock that a call holds; a lock for this tool only has its full name."""
        return self.name if self.spec.exclusive == self.spec.name else self.spec.exclusive


class Registry:
    """All tools by name, and the sources they come from."""

    def __init__(self, host: ToolHost, files: ToolFiles, standard: str) -> None:
        self._host, self._files = host, files
        self._tools: dict[str, Tool] = {}
        self._standard = Source(STANDARD, "std", standard)
        self.problems: dict[str, str] = {}
        self.sources = self._stored("sources.json", files.sources)
        self.pins: dict[str, Pin] = self._stored("pins.json", files.pins)
        self.servers: dict[str, McpServer] = self._stored("mcp.json", files.servers)
        self._unknown: dict[str, Source] = {STANDARD: self._standard}
        self._unknown |= {name: source_of(request) for name, request in self.sources.items()}
        self._asked = 0
        self._waiting: list[Promise[None]] = []
        for name in self.servers:
            self.show_server(name)

    def _stored(self, name: str, load: Callable[[], dict[str, T]]) -> dict[str, T]:
        try:
            return load()
        except AiosError as error:
            self.problems[name] = one_line(error)
            return {}

    # ------------------------------------------------------------------ listing

    async def ready(self) -> None:
        """Wait until all sources have listed their tools."""
        asked, self._unknown = self._unknown, {}
        self._asked += len(asked)
        for source in asked.values():
            start(self.ask(source)).then(lambda _: self._heard())
        if self._asked:
            waiting: Promise[None] = Promise()
            self._waiting.append(waiting)
            await waiting

    def _heard(self) -> None:
        self._asked -= 1
        if not self._asked:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.resolve(None)

    async def ask(self, source: Source) -> None:
        """List a source's tools, and add them. Raises ToolUnavailable."""
        try:
            report = await self._host.describe(source, DESCRIBE_TIMEOUT_S)
        except ToolUnavailable as error:
            self.problems[source.name] = error.message
            self.hide(source.name)
            reason = f"{source.name}: {error.message}"
            raise ToolUnavailable(reason, "correct it and add it again") from None
        self.problems.pop(source.name, None)
        self._show(source, report.tools)

    def all(self) -> list[Tool]:
        """Return all tools, ordered by name."""
        return [self._tools[name] for name in sorted(self._tools)]

    def find(self, name: str) -> Tool:
        """Return the tool with a name. Raises NotFound, which suggests a similar name."""
        found = self._tools.get(name)
        if found is None:
            near = did_you_mean(name, self._tools)
            raise NotFound(f"no tool {name[:80]!r}{near}", "list them with: aios tool ls")
        return found

    # ------------------------------------------------------------------ sources

    def _show(self, source: Source, specs: list[ToolSpec]) -> None:
        self.hide(source.name)
        label = STANDARD if source.kind == "std" else f"{source.kind} {source.name}"
        for spec in specs:
            name = spec.name if source.kind == "std" else f"{source.name}.{spec.name}"
            self._tools[name] = Tool(name, spec, label, source)

    def hide(self, source: str) -> None:
        """Remove a source's tools."""
        for name, tool in list(self._tools.items()):
            if tool.source and tool.source.name == source:
                del self._tools[name]

    def refuse_taken(self, name: str, kind: str) -> None:
        """Raise InvalidArgument if a source of another kind has this name."""
        taken = name == STANDARD or (name in self.servers and kind != "mcp")
        if taken or (name in self.sources and self.sources[name].kind != kind):
            raise InvalidArgument(f"{name!r} is the name of another source", "choose another name")

    def show_server(self, name: str) -> None:
        """Show a server's approved tools; none if it is not approved."""
        pin, server = self.pins.get(name), self.servers[name]
        self.hide(name)
        state = state_of(pin, server)
        if pin is None or state == "unapproved":
            self.problems[name] = f"not approved; review it, then: aios mcp approve {name}"
            return
        self._show(self.server_source(name, pin.digest), pin.tools)
        for tool in self._tools.values():
            if tool.source and tool.source.name == name:
                tool.revoked = state == "revoked"
        if state == "revoked":
            self.problems[name] = f"its tools changed; review them, then: aios mcp approve {name}"
        else:
            self.problems.pop(name, None)

    def server_source(self, name: str, pin: str) -> Source:
        """Return the source of a server. ``pin``: digest of the approved tools."""
        return Source(name, "mcp", msgspec.json.encode(self.servers[name]).decode(), pin)

    # ------------------------------------------------------------------ offers

    def offer(self, owner: int, specs: list[ToolSpec]) -> None:
        """Replace an agent's offer. Raises InvalidArgument, in which case nothing changes."""
        names = [spec.name for spec in specs]
        for name in names:
            taken = self._tools.get(name)
            if "." in name or names.count(name) > 1 or (taken and taken.owner != owner):
                reason = f"is a tool of {taken.label}" if taken else "has a dot or is given twice"
                raise InvalidArgument(
                    f"{name!r} cannot be offered: it {reason}", "give it another name"
                )
        self.withdraw(owner)
        for spec in specs:
            self._tools[spec.name] = Tool(spec.name, spec, f"pid {owner}", owner=owner)

    def withdraw(self, owner: int) -> None:
        """Remove an agent's offer."""
        for name, tool in list(self._tools.items()):
            if tool.owner and tool.owner == owner:
                del self._tools[name]


def source_of(request: SourceRequest) -> Source:
    """Return the source of a file or API."""
    config = msgspec.json.encode(request).decode()
    return Source(request.name, request.kind, config)
