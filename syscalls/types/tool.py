"""Request and reply types of the calls on tools: ``tool.*`` and ``mcp.*``.

Arguments and results travel as JSON texts: the kernel routes them and never looks inside.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .common import Effect, Path

MAX_JSON_BYTES = 1 << 20
"""Longest arguments or result of one tool call, as JSON text."""
MAX_TOOLS = 256
"""Tools that one source may have."""
MAX_TOOL_TIMEOUT_S = 3600.0

TOOL_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z"
ToolName = Annotated[str, Meta(min_length=1, max_length=128, pattern=TOOL_PATTERN)]
SOURCE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_-]*\Z"
SourceName = Annotated[str, Meta(min_length=1, max_length=64, pattern=SOURCE_PATTERN)]
SecretName = SourceName
Json = Annotated[str, Meta(min_length=1, max_length=MAX_JSON_BYTES)]


class ToolSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool as it is declared. ``parameters``: a JSON schema (text) of an object.

    ``concurrency`` calls run at once at most; ``exclusive`` names a lock that tools may share: one
    call holds it at a time ('' for none). ``timeout_s`` counts from when a call begins to run.
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
    """A tool as the kernel knows it. ``source``: ``standard``, ``file NAME``, ``api NAME``,
    ``mcp NAME`` or ``pid N``. ``state``: ``revoked`` until the operator approves its server."""

    spec: ToolSpec
    source: str
    state: Literal["ready", "revoked"]
    running: int
    waiting: int
    calls: int


class ToolList(msgspec.Struct, frozen=True):
    """In order of name; ``problems``: sources that have no tools now, and why."""

    tools: list[ToolInfo]
    problems: list[str]


class ToolRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tool."""

    name: ToolName


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Call a tool. ``arguments``: a JSON object as text, checked against the tool's schema."""

    name: ToolName
    arguments: Json = "{}"


class ToolReply(msgspec.Struct, frozen=True):
    """``result``: JSON text. ``output``: the beginning of what the tool printed. ``wait_s``: for
    its turn; ``run_s``: in the tool itself; ``attempts``: more than 1 when it was tried again."""

    result: str
    output: str = ""
    wait_s: float = 0.0
    run_s: float = 0.0
    attempts: int = 1


class OfferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Offer functions of one's own to others, in place of those offered before; none: no more."""

    tools: Annotated[list[ToolSpec], Meta(max_length=MAX_TOOLS)]


class ToolWork(msgspec.Struct, frozen=True):
    """A call of an offered tool, to be answered; ``caller`` is set by the kernel.

    ``due_s``: when its caller has given up, on the machine's monotonic clock.
    """

    work: int
    name: str
    arguments: str
    caller: int
    caller_name: str
    due_s: float = 0.0


class ToolAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a piece of work (JSON text), or why there is none: an error code and text."""

    work: Annotated[int, Meta(ge=0)]
    result: Json = "null"
    code: Annotated[str, Meta(max_length=64)] = ""
    message: Annotated[str, Meta(max_length=4096)] = ""


class SourceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Add tools: the ``@aios.tool`` functions of a Python file, or the operations of an OpenAPI
    document (JSON or YAML). ``secret`` names the key that its calls carry; ``base_url`` stands in
    for the document's server. ``trust_hints``: believe that GET has no effect."""

    name: SourceName
    kind: Literal["file", "api"]
    path: Path
    base_url: Annotated[str, Meta(max_length=2048)] = ""
    secret: Annotated[str, Meta(max_length=64)] = ""
    trust_hints: bool = False


class SourceRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which source: a file, an API or an MCP server, by its name."""

    name: SourceName


class SecretRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep a key for API tools, or with None forget it. It is never told to anybody."""

    name: SecretName
    value: Annotated[str, Meta(min_length=1, max_length=16384)] | None = None


class McpServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of the common ``mcpServers`` JSON: a command (stdio) or a URL (streamable HTTP).

    Values of ``env`` and ``headers`` may be ``${secret:NAME}``. ``trustHints``: believe what the
    server says of its tools' effects; otherwise each is irreversible.
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
    """Add or replace a server: it is started, and its tools are pinned as they are now."""

    name: SourceName
    server: McpServer


class McpInfo(msgspec.Struct, frozen=True):
    """One server. ``where``: its command or URL, without secrets. ``pin``: a hash of its tools as
    approved; ``changes``: how they differ now; ``skipped``: its tools that cannot be used."""

    name: str
    transport: Literal["stdio", "http"]
    where: str
    state: Literal["ready", "revoked", "unapproved"]
    tools: list[str]
    pin: str
    changes: list[str]
    skipped: list[str] = []


class McpList(msgspec.Struct, frozen=True):
    """In order of name."""

    servers: list[McpInfo]
