"""Request and reply types of ``llm.chat`` and of saved contexts."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .common import Name, Text
from .memory import Scopes

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
ContextRef = Annotated[str, Meta(max_length=129, pattern=rf"^({_NAME}/)?{_NAME}\Z")]
"""``NAME`` of the caller's own saved context, or ``AGENT/NAME``."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation, in the chat-completion format."""

    role: Annotated[str, Meta(min_length=1, max_length=32)]
    content: Text
    name: Annotated[str, Meta(max_length=64)] | None = None


class ChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Generate text. Exactly one of ``messages`` (chat template applied) and ``prompt`` (raw).

    The same request gives the same tokens: sampling is a function of (``seed``, position).
    ``seed=None`` draws one, and the reply names it. ``temperature=0`` is greedy.
    ``json_schema`` (a JSON text) and ``grammar`` (GBNF) constrain the output; at most one.
    ``maxItems`` and ``maxLength`` beyond 1,000 are not enforced.
    ``window``: what to do when the messages outgrow the context window: an error, leave out the
    oldest turns, or let the model summarise them. ``expected_tokens``: a hint for ``srtf``.
    ``recall``: up to so many of the notes in ``recall_scopes`` that fit the last message are put
    before it, as a system message: those whose score (0 to 1, by meaning and by common words) is
    ``recall_min`` or more. 0.5 is right for most; 0 recalls whatever a search finds.
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
    json_schema: Annotated[str, Meta(min_length=2, max_length=1 << 18)] | None = None
    grammar: Annotated[str, Meta(min_length=1, max_length=1 << 18)] | None = None
    stream: bool = False
    window: Literal["error", "truncate", "summarise"] = "error"
    expected_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    recall: Annotated[int, Meta(ge=0, le=50)] = 0
    recall_scopes: Scopes = ("session", "agent")
    recall_min: Annotated[float, Meta(ge=0, le=1)] = 0.5


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a streamed reply."""

    text: str


class Usage(msgspec.Struct, frozen=True):
    """``cached_tokens``: prompt tokens whose KV was there already and was not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Timing(msgspec.Struct, frozen=True):
    """Seconds, as the kernel saw them.

    ``wait_s``: call received → first slice. ``ready_s``: all time runnable but not running, the
    wait included. ``first_token_s`` and ``turnaround_s``: from call received. ``received_s`` is
    on the kernel's monotonic clock (CLOCK_MONOTONIC, comparable across processes of one host).
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
    """What was done so that a conversation fits the context window.

    ``policy``: ``truncate`` or ``summarise``. ``dropped_turns`` of the oldest messages were left
    out; with ``summarise`` the model's ``summary`` of them stands in their place, and the
    ``summary_tokens`` that it took to write are charged to the agent like those of the reply.
    """

    policy: str
    dropped_turns: int
    summary: str = ""
    summary_tokens: int = 0


class Recalled(msgspec.Struct, frozen=True):
    """A note that was put into a prompt. ``score``: how well it fits, 0 to 1."""

    id: str
    text: str
    score: float = 0.0


class ChatReply(msgspec.Struct, frozen=True):
    """``finish``: ``stop`` (end of turn or stop string) or ``length`` (max_tokens or window).
    ``window``: what was left out of the conversation; None when nothing was. ``recalled``: the
    notes that were put before the last message."""

    text: str
    finish: Literal["stop", "length"]
    tokens: list[int]
    usage: Usage
    timing: Timing
    seed: int
    model: str
    window: WindowReport | None = None
    recalled: list[Recalled] = []


# ------------------------------------------------------------------------------ contexts


class SaveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep a conversation under a name, and with it the KV that the caller's last reply left."""

    name: ContextRef
    messages: Annotated[list[Message], Meta(max_length=4096)]


class NamedContext(msgspec.Struct, frozen=True):
    """A saved conversation. ``tokens``: of its KV that were saved, 0 when none were."""

    name: str
    saved_unix: float
    tokens: int
    size_bytes: int


class ContextReply(msgspec.Struct, frozen=True):
    """A restored conversation."""

    messages: list[Message]
    tokens: int


class ContextName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which one."""

    name: ContextRef


class ContextsOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose; None: the caller's own."""

    agent: Name | None = None


class ContextList(msgspec.Struct, frozen=True):
    """In order of name."""

    contexts: list[NamedContext]
