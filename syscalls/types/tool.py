"""Request and reply types of ``tool.*`` and ``mcp.*``.

Arguments and results are JSON texts. The kernel routes them and never parses them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .common import Effect, Path

MAX_JSON_BYTES = 1 << 20
"""Limit on the arguments, and on the result, of one tool call, as JSON text."""
MAX_TOOLS = 256
"""Limit on the tools of one source."""
MAX_TOOL_TIMEOUT_S = 3600.0

TOOL_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z"
ToolName = Annotated[str, Meta(min_length=1, max_length=128, pattern=TOOL_PATTERN)]
SOURCE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_-]*\Z"
SourceName = Annotated[str, Meta(min_length=1, max_length=64, pattern=SOURCE_PATTERN)]
SecretName = SourceName
Json = Annotated[str, Meta(min_length=1, max_length=MAX_JSON_BYTES)]


class ToolSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The declaration of a tool. ``parameters``: a JSON schema (text) of an object.

    ``concurrency``: limit on simultaneous calls. ``exclusive``: a lock, perhaps shared with other
    tools, that one call holds at a time; empty for none. ``timeout_s`` counts from the start of the
    call's execution.
    """

    name: ToolName
    description: Annotated[str, Meta(max_length=8192)] = ""
    parameters: Annotated[str, Meta(min_length=2, max_length=1 << 18)] = '{"type": "object"}'
    effect: Effect = "irreversible"
    idempotent: bool = False
    concurrency: Annotated[int, Meta(ge=1, le=1024)] = 4
    exclusive: Annotated[str, Meta(max_length=128)] = ""
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_TOOL_TIMEOUT_S)] = 30.0


class ToolInfo(msgspec.Struct, frozen=True):
    """A tool as the kernel knows it. ``source``: ``standard``, ``file NAME``, ``api NAME``, ``mcp
    NAME`` or ``pid N``. ``state``: ``revoked`` until the operator approves its server."""

    spec: ToolSpec
    source: str
    state: Literal["ready", "revoked"]
    running: int
    waiting: int
    calls: int


class ToolList(msgspec.Struct, frozen=True):
    """Tools in order of name. ``problems``: sources without tools, with the reason."""

    tools: list[ToolInfo]
    problems: list[str]


class ToolRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool by its name."""

    name: ToolName


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Call a tool. ``arguments``: a JSON object (text), checked against the tool's schema."""

    name: ToolName
    arguments: Json = "{}"


class ToolReply(msgspec.Struct, frozen=True):
    """The result of a tool call. ``result``: JSON text. ``output``: the beginning of what the tool
    printed. ``wait_s``: time in the queue; ``run_s``: time in the tool. ``attempts``: more than 1
    if the call was retried."""

    result: str
    output: str = ""
    wait_s: float = 0.0
    run_s: float = 0.0
    attempts: int = 1


class OfferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Offer the caller's functions as tools, replacing those offered before; an empty list
    withdraws them."""

    tools: Annotated[list[ToolSpec], Meta(max_length=MAX_TOOLS)]


class ToolWork(msgspec.Struct, frozen=True):
    """A call of an offered tool, to be answered. The kernel sets ``caller``.

    ``due_s``: time at which the caller gives up, on CLOCK_MONOTONIC; 0 for never.
    """

    work: int
    name: str
    arguments: str
    caller: int
    caller_name: str
    due_s: float = 0.0


class ToolAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result (JSON text) of a piece of work, or the code and message of its error."""

    work: Annotated[int, Meta(ge=0)]
    result: Json = "null"
    code: Annotated[str, Meta(max_length=64)] = ""
    message: Annotated[str, Meta(max_length=4096)] = ""


class SourceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Add tools: the ``@aios.tool`` functions of a Python file, or the operations of an OpenAPI
    document (JSON or YAML). ``secret``: name of the key sent with each request. ``base_url``
    replaces the document's server. ``trust_hints``: believe that GET has no effect."""

    name: SourceName
    kind: Literal["file", "api"]
    path: Path
    base_url: Annotated[str, Meta(max_length=2048)] = ""
    secret: Annotated[str, Meta(max_length=64)] = ""
    trust_hints: bool = False


class SourceRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source of tools by its name: a file, an API or an MCP server."""

    name: SourceName


class SecretRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Store a key for API tools and MCP servers, or forget it (None). It is never shown again."""

    name: SecretName
    value: Annotated[str, Meta(min_length=1, max_length=16384)] | None = None


class McpServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of the common ``mcpServers`` JSON: a command (stdio) or a URL (streamable HTTP).

    Values of ``env`` and ``headers`` may be ``${secret:NAME}``. ``trustHints``: believe the effects
    that the server declares; otherwise every tool is irreversible.
    """

    command: Annotated[str, Meta(max_length=4096)] | None = None
    args: Annotated[list[Annotated[str, Meta(max_length=65536)]], Meta(max_length=256)] = []
    env: Annotated[dict[str, Annotated[str, Meta(max_length=65536)]], Meta(max_length=256)] = {}
    cwd: Path | None = None
    type: Literal["stdio", "http", "streamable-http", "streamableHttp"] | None = None
    url: Annotated[str, Meta(max_length=4096)] | None = None
    headers: Annotated[dict[str, Annotated[str, Meta(max_length=65536)]], Meta(max_length=64)] = {}
    trustHints: bool = False
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_TOOL_TIMEOUT_S)] = 60.0


class McpAddRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Add or replace a server: start it and pin its tools as they are now."""

    name: SourceName
    server: McpServer


class McpInfo(msgspec.Struct, frozen=True):
    """One server. ``where``: its command or URL, without secrets. ``pin``: hash of its approved
    tools; ``changes``: how they differ now; ``skipped``: tools that cannot be used."""

    name: str
    transport: Literal["stdio", "http"]
    where: str
    state: Literal["ready", "revoked", "unapproved"]
    tools: list[str]
    pin: str
    changes: list[str]
    skipped: list[str] = []


class McpList(msgspec.Struct, frozen=True):
    """Servers in order of name."""

    servers: list[McpInfo]
