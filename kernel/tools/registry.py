"""Which tools there are: standard ones, those of files, APIs and MCP servers, and agents' offers.

Tools of a source are learned from the toolhost when they are first needed; an MCP server's from
what was approved, so that it need not run. A tool of a file, API or server is ``SOURCE.TOOL``; the
standard ones and what agents offer have no dot, so neither can be mistaken for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from aios.syscalls.errors import AiosError, InvalidArgument, NotFound, ToolUnavailable
from aios.syscalls.suggest import did_you_mean
from aios.syscalls.toolwire import JobDone, Source, SourceDescribed
from aios.syscalls.types.tool import McpServer, SourceRequest, ToolSpec

from .files import Pin, ToolFiles, config_digest, problem
from .host import ToolHost

T = TypeVar("T")

STANDARD = "standard"
DESCRIBE_TIMEOUT_S = 30.0
Told = Callable[["list[ToolSpec] | AiosError"], None]


@dataclass(eq=False)
class Tool:
    """A tool by its full name. ``owner``: the pid that offers it, else 0."""

    name: str
    spec: ToolSpec
    label: str
    source: Source | None = None
    owner: int = 0
    revoked: bool = False
    calls: int = 0

    @property
    def lock(self) -> str:
        """The exclusive lock that a call holds; one that is only its own has its full name."""
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
        self._then: list[Callable[[], None]] = []
        for name in self.servers:
            self.show_server(name)

    def _stored(self, name: str, load: Callable[[], dict[str, T]]) -> dict[str, T]:
        try:
            return load()
        except AiosError as error:
            self.problems[name] = problem(error)
            return {}

    # ------------------------------------------------------------------ looking

    def ready(self, then: Callable[[], None]) -> None:
        """Call back when all sources have been asked for their tools, which may be now."""
        if not self._unknown and not self._asked:
            then()
            return
        self._then.append(then)
        asked, self._unknown = self._unknown, {}
        self._asked += len(asked)
        for source in asked.values():
            self.ask(source, lambda _: self._told())

    def _told(self) -> None:
        self._asked -= 1
        if not self._asked:
            waiting, self._then = self._then, []
            for then in waiting:
                then()

    def ask(self, source: Source, told: Told) -> None:
        """Learn a source's tools, afresh, and show them."""

        def done(report: JobDone | SourceDescribed) -> None:
            if isinstance(report, SourceDescribed) and not report.error:
                self.problems.pop(source.name, None)
                self._show(source, report.tools)
                told(report.tools)
                return
            reason = report.error if isinstance(report, SourceDescribed) else report.message
            self.problems[source.name] = reason
            self.hide(source.name)
            told(ToolUnavailable(f"{source.name}: {reason}", "mend it and add it again"))

        self._host.describe(source, DESCRIBE_TIMEOUT_S, done)

    def all(self) -> list[Tool]:
        """In order of name."""
        return [self._tools[name] for name in sorted(self._tools)]

    def find(self, name: str) -> Tool:
        """The tool of this name. Raises NotFound, naming one that is near."""
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
        """A source's tools are there no more."""
        for name, tool in list(self._tools.items()):
            if tool.source and tool.source.name == source:
                del self._tools[name]

    def refuse_taken(self, name: str, kind: str) -> None:
        """Raises InvalidArgument when a source of another kind has this name."""
        taken = name == STANDARD or (name in self.servers and kind != "mcp")
        if taken or (name in self.sources and self.sources[name].kind != kind):
            raise InvalidArgument(f"{name!r} is the name of another source", "choose another")

    def show_server(self, name: str) -> None:
        """The tools of a server as they were approved, or none."""
        pin, server = self.pins.get(name), self.servers[name]
        self.hide(name)
        if pin is None or pin.config_digest != config_digest(server):
            self.problems[name] = f"not approved; look at it and: aios mcp approve {name}"
            return
        self._show(self.server_source(name, pin.digest), pin.tools)
        for tool in self._tools.values():
            if tool.source and tool.source.name == name:
                tool.revoked = bool(pin.changes)
        if pin.changes:
            self.problems[name] = f"it changed its tools; look and: aios mcp approve {name}"
        else:
            self.problems.pop(name, None)

    def server_source(self, name: str, pin: str) -> Source:
        """A server as the toolhost knows it."""
        return Source(name, "mcp", msgspec.json.encode(self.servers[name]).decode(), pin)

    # ------------------------------------------------------------------ offers

    def offer(self, owner: int, specs: list[ToolSpec]) -> None:
        """An agent's offer in place of its earlier one. Raises InvalidArgument; then nothing is."""
        names = [spec.name for spec in specs]
        for name in names:
            taken = self._tools.get(name)
            if "." in name or names.count(name) > 1 or (taken and taken.owner != owner):
                whose = f"is {taken.label}'s" if taken else "has a dot in it or comes twice"
                raise InvalidArgument(f"{name!r} cannot be offered: it {whose}", "name it anew")
        self.withdraw(owner)
        for spec in specs:
            self._tools[spec.name] = Tool(spec.name, spec, f"pid {owner}", owner=owner)

    def withdraw(self, owner: int) -> None:
        """An agent offers nothing any more."""
        for name, tool in list(self._tools.items()):
            if tool.owner and tool.owner == owner:
                del self._tools[name]


def source_of(request: SourceRequest) -> Source:
    """A file or API as the toolhost knows it."""
    config = msgspec.json.encode(request).decode()
    return Source(request.name, request.kind, config)
