"""Request and reply types of ``llm.chat`` and ``context.*``."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .common import Name, Text
from .memory import Scopes
from .tool import Json, ToolName

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
ContextRef = Annotated[str, Meta(max_length=129, pattern=rf"^({_NAME}/)?{_NAME}\Z")]
"""``NAME``: the caller's own saved context; ``AGENT/NAME``: another agent's."""
CallId = Annotated[str, Meta(min_length=1, max_length=128)]


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message's content. Only parts of the type ``text`` can be used."""

    type: Annotated[str, Meta(max_length=64)]
    text: Text = ""


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call by the model. ``arguments_json``: a JSON object as text."""

    id: CallId
    name: ToolName
    arguments_json: Json = "{}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments as Python values."""
        made: dict[str, Any] = json.loads(self.arguments_json)
        return made


Source = Annotated[str, Meta(min_length=1, max_length=1 << 20)]
"""What holds a text: a schema, grammar or regular expression, up to 1 MiB."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation, in the chat-completion format.

    ``role``: any that the model's template knows. ``content``: a text, or a list of text parts.
    ``tool_calls``: what an assistant's turn calls. ``tool_call_id``: the call that a turn of the
    role ``tool`` answers; ``name`` is then the tool's.
    """

    role: Annotated[str, Meta(min_length=1, max_length=32)]
    content: Text | Annotated[list[ContentPart], Meta(max_length=1024)] | None = ""
    name: Annotated[str, Meta(max_length=128)] | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=64)] = []
    tool_call_id: CallId | None = None

    @property
    def text(self) -> str:
        """The content as one text; parts stand on lines of their own."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class ChatTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool that the model may call. ``parameters``: a JSON schema (text) of an object."""

    name: ToolName
    description: Annotated[str, Meta(max_length=8192)] = ""
    parameters: Annotated[str, Meta(min_length=2, max_length=1 << 18)] = '{"type": "object"}'


class ToolChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one tool that the model must call."""

    name: ToolName


class ChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Generate text from exactly one of ``messages`` (chat template applied) and ``prompt`` (raw).

    The same request gives the same tokens: sampling is a function of (``seed``, position). ``seed``
    None draws one, and the reply names it. ``temperature`` 0 is greedy. At most one of these holds
    the text: ``json_schema`` (a JSON text), ``grammar`` (GBNF), ``regex`` (the whole text matches),
    ``lark`` (llguidance's grammars), ``choice`` (one of these texts). ``window`` says what to
    do when the messages outgrow the context window: fail, drop the oldest turns, or have the model
    summarise them.
    ``expected_tokens``: a hint for the policy ``srtf``. ``recall``: limit on the notes from
    ``recall_scopes`` that are put before the last message, as a user message; only notes with a
    score of at least ``recall_min`` (0 to 1, by meaning and by common words) are recalled. 0.5
    suits most uses; 0 recalls all that a search finds.
    ``tools``: what the model may call, by declaration or by the name of a tool of the kernel. It
    calls in the format of its template, with arguments that the tool's schema allows.
    ``tool_choice``: it may call (``auto``), may not (``none``), must (``required``), or must call
    the one that is named. A model whose template has no tools is told of them in the system text;
    with ``tool_format`` ``own`` the call ends with TOOLS_UNSUPPORTED instead. ``thinking`` asks a
    template that can to turn the model's reasoning on or off. ``date`` (YYYY-MM-DD): the day that a
    template writes into the prompt, by default the day of the call.
    """

    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)] | None = None
    prompt: Text | None = None
    model: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] = 256
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.7
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Meta(ge=0, le=1 << 20)] = 40
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.05
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = 0
    stop: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=16)
    ] = []
    json_schema: Source | None = None
    grammar: Source | None = None
    regex: Source | None = None
    lark: Source | None = None
    choice: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=1 << 16)]],
            Meta(min_length=1, max_length=10_000),
        ]
        | None
    ) = None
    stream: bool = False
    window: Literal["error", "truncate", "summarise"] = "error"
    expected_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    recall: Annotated[int, Meta(ge=0, le=50)] = 0
    recall_scopes: Scopes = ("session", "agent")
    recall_min: Annotated[float, Meta(ge=0, le=1)] = 0.5
    tools: Annotated[list[ToolName | ChatTool], Meta(max_length=128)] = []
    tool_choice: Literal["auto", "none", "required"] | ToolChoice = "auto"
    parallel_tool_calls: bool = True
    tool_format: Literal["any", "own"] = "any"
    thinking: bool | None = None
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}\Z")] | None = None


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a streamed reply: of its text, or of the reasoning before."""

    text: str
    reasoning: str = ""


class Usage(msgspec.Struct, frozen=True):
    """Token counts. ``cached_tokens``: prompt tokens whose KV was not computed again.
    ``accepted_draft_tokens``: generated tokens that took no step of their own."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    accepted_draft_tokens: int = 0


class Timing(msgspec.Struct, frozen=True):
    """Seconds, as the kernel measured them.

    ``wait_s``: from the call's arrival to its first slice. ``ready_s``: total time runnable but not
    running, ``wait_s`` included. ``first_token_s`` and ``turnaround_s``: from the call's arrival.
    ``received_s``: time of arrival, on CLOCK_MONOTONIC, which all processes of a host share.
    """

    received_s: float
    wait_s: float
    ready_s: float
    first_token_s: float
    turnaround_s: float
    slices: int
    parks: int
    recomputes: int


class WindowReport(msgspec.Struct, frozen=True):
    """The changes that made a conversation fit into the context window.

    ``policy``: ``truncate`` or ``summarise``. The oldest ``dropped_turns`` messages were dropped;
    with ``summarise`` the model's ``summary`` replaces them. Its ``summary_tokens`` are charged to
    the agent like those of the reply.
    """

    policy: str
    dropped_turns: int
    summary: str = ""
    summary_tokens: int = 0


class Recalled(msgspec.Struct, frozen=True):
    """A note that was put into a prompt. ``score``: how well it matches, 0 to 1."""

    id: str
    text: str
    score: float = 0.0


class ChatReply(msgspec.Struct, frozen=True):
    """A generated text. ``finish``: ``stop`` (end of turn or stop string), ``length``
    (``max_tokens`` or window) or ``tool_calls`` (the model wants ``tool_calls`` made and their
    results in messages of the role ``tool``). ``window``: what was dropped from the conversation,
    or None. ``recalled``: the notes put before the last message. ``reasoning``: what the model
    wrote before its text, in its own marks. ``adapted``: how the messages were changed to suit the
    model's template, and warnings about it."""

    text: str
    finish: Literal["stop", "length", "tool_calls"]
    tokens: list[int]
    usage: Usage
    timing: Timing
    seed: int
    model: str
    window: WindowReport | None = None
    recalled: list[Recalled] = []
    reasoning: str = ""
    adapted: list[str] = []
    tool_calls: list[ToolCall] = []


# ------------------------------------------------------------------------------ embeddings


class EmbedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Turn texts into vectors of their meaning.

    ``model``: an embedding model by name or path; None: the kernel's own embedder. ``kind``: a text
    to be found, or one to search with; only the kernel's own embedder tells them apart.
    """

    texts: Annotated[list[Text], Meta(min_length=1, max_length=1024)]
    model: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    kind: Literal["passage", "query"] = "passage"


class EmbedReply(msgspec.Struct, frozen=True):
    """One vector for each text: float32 values, little-endian, of length 1. ``cut``: positions of
    texts of which the model could read only the beginning."""

    vectors: list[bytes]
    dimensions: int
    model: str
    cut: list[int] = []


# ------------------------------------------------------------------------------ contexts


class SaveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Save a conversation under a name, with the KV that the caller's last reply left."""

    name: ContextRef
    messages: Annotated[list[Message], Meta(max_length=4096)]


class NamedContext(msgspec.Struct, frozen=True):
    """A saved conversation. ``tokens``: length of its saved KV; 0 if none was saved. ``weights``:
    weights and settings that the KV was computed with; it is used only with the same."""

    name: str
    saved_unix: float
    tokens: int
    size_bytes: int
    weights: str = ""


class ContextReply(msgspec.Struct, frozen=True):
    """A restored conversation. ``recomputed``: why its KV is computed again, if it is."""

    messages: list[Message]
    tokens: int
    recomputed: str = ""


class ContextName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A saved context by its name."""

    name: ContextRef


class ContextsOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List the saved contexts of an agent; None: the caller's own."""

    agent: Name | None = None


class ContextList(msgspec.Struct, frozen=True):
    """Saved contexts in order of name."""

    contexts: list[NamedContext]
