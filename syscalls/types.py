"""Request and reply types of the calls on processes, messages, the model, contexts and the kernel.

All are frozen. Limits are part of the type, so the boundary checks them before a handler runs.
Times are seconds on the kernel's monotonic clock unless the name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .memory_types import Scopes

MAX_TEXT_BYTES = 4 << 20
"""Longest text in one field (characters). Longer prompts cannot fit any context window served."""
MAX_ARGS = 1024
MAX_TIMEOUT_S = 7 * 24 * 3600.0

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z"
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=NAME_PATTERN)]
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
ContextRef = Annotated[str, Meta(max_length=129, pattern=rf"^({_NAME}/)?{_NAME}\Z")]
"""``NAME`` of the caller's own saved context, or ``AGENT/NAME``."""
Ref = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_BYTES)]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Nice = Annotated[int, Meta(ge=-20, le=19)]
Weight = Annotated[float, Meta(gt=0, le=1000)]
Quota = Annotated[int, Meta(ge=1, le=1 << 40)]
Rules = Annotated[list[Annotated[str, Meta(min_length=1, max_length=512)]], Meta(max_length=64)]
"""Rights as text: ``[VERB] KIND[.ACTION]:NAME``."""
Class = Literal["interactive", "normal", "batch"]
ProcessState = Literal["starting", "idle", "ready", "running", "paused", "ending", "dead"]


class Empty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request or reply without content."""


# ------------------------------------------------------------------------------ processes


class Pid(msgspec.Struct, frozen=True):
    """Who the caller is. ``pid`` is the kernel's number, not the host's."""

    pid: int
    name: str
    parent: int


class PsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``all``: dead processes too, as far as the kernel remembers them (the newest 1,000)."""

    all: bool = False


class ProcessInfo(msgspec.Struct, frozen=True):
    """One row of the process table.

    ``cpu_s`` and ``rss_bytes`` are the host's figures for the agent's own process;
    ``tokens_in`` and ``tokens_out`` count prompt and generated tokens; ``context_tokens`` is
    what its running requests hold now, or its last one held; ``window_tokens`` is what one may
    hold. ``notes`` and ``note_bytes`` are of its session's memory, the interaction log included.
    Weight and quotas are of its program. ``exit_code`` follows the shell: 128+n for signal n.
    ``waits``: tools that its calls wait for, and which pid is in the way or serves them.
    """

    pid: int
    parent: int
    name: str
    state: ProcessState
    klass: Class
    nice: int
    os_pid: int
    started_unix: float
    age_s: float
    calls: int
    tokens_in: int
    tokens_out: int
    max_tokens: int | None
    context_tokens: int
    window_tokens: int
    weight: float
    quota_tokens: int | None
    quota_cells: int | None
    requests: int
    parks: int
    notes: int
    note_bytes: int
    cpu_s: float
    rss_bytes: int
    exit_code: int | None
    reason: str
    command: str
    model: str | None
    group: str = ""
    waits: list[str] = []


class ProcessList(msgspec.Struct, frozen=True):
    """Processes in order of pid."""

    processes: list[ProcessInfo]


class SpawnRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start a Python file as an agent.

    ``stdin``, ``stdout``, ``stderr`` are paths (the operator's only): a file or a FIFO that has a
    reader. ``None`` for output means the agent's log. ``env`` is the whole environment for the
    operator, and additions to its own for an agent's child.
    ``max_tokens`` bounds the tokens that it and its children may generate in their lives;
    ``timeout_s`` bounds that life. ``weight``, ``quota_tokens`` (computed in a minute) and
    ``quota_cells`` (KV cells held at once) are of the whole program, so the operator's to give.
    ``group`` is its privilege group (its parent's without); ``rights`` are what it may do instead
    of what a group may; ``allow`` and ``deny`` are rules beside these. Whatever is given, a child
    never has more than its parent. ``asks``: whoever starts it sits at a terminal and answers
    ``access.next`` (the operator's only).
    """

    path: Path
    args: Annotated[list[Text], Meta(max_length=MAX_ARGS)] = []
    cwd: Path | None = None
    env: Annotated[dict[str, Text], Meta(max_length=4096)] = {}
    name: Name | None = None
    nice: Nice = 0
    klass: Class = "normal"
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 40)] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_S)] | None = None
    model: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    weight: Weight = 1.0
    quota_tokens: Quota | None = None
    quota_cells: Quota | None = None
    stdin: Path | None = None
    stdout: Path | None = None
    stderr: Path | None = None
    group: Name | None = None
    rights: Rules | None = None
    allow: Rules = []
    deny: Rules = []
    asks: bool = False


class SpawnReply(msgspec.Struct, frozen=True):
    """``log`` is the file that the agent's output goes to (or would, when it is attached)."""

    pid: int
    name: str
    os_pid: int
    log: str


class RefRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``ref``: a pid, a name, or a unique prefix of a name."""

    ref: Ref


class SignalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``kill``: SIGKILL to the agent and all it started. ``stop``: SIGTERM, and SIGKILL after
    ``grace_s``. ``pause`` and ``resume`` freeze and thaw it, its generation included."""

    ref: Ref
    action: Literal["kill", "stop", "pause", "resume"]
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0


class ReniceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Change what is not ``None``. Weight and quotas are of the whole program and the operator's
    to change; a quota of 0 lifts it."""

    ref: Ref
    nice: Nice | None = None
    klass: Class | None = None
    weight: Weight | None = None
    quota_tokens: Annotated[int, Meta(ge=0, le=1 << 40)] | None = None
    quota_cells: Annotated[int, Meta(ge=0, le=1 << 40)] | None = None


class ExitStatus(msgspec.Struct, frozen=True):
    """How a process ended. ``exit_code``: 0–255, 128+n for signal n."""

    pid: int
    name: str
    exit_code: int
    reason: str


class LogReply(msgspec.Struct, frozen=True):
    """Where the output of a process is; ``alive`` while more may come."""

    pid: int
    path: str
    alive: bool


# ------------------------------------------------------------------------------ messages


class SendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message to another agent: any value that msgpack can carry, 1 MiB packed at most."""

    to: Ref
    body: Any


class RecvRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Wait for the next message; ``sender`` restricts it to one process."""

    sender: Ref | None = None


class MailReply(msgspec.Struct, frozen=True):
    """One message; ``sender`` is set by the kernel and cannot be forged."""

    sender: int
    sender_name: str
    body: Any


# ------------------------------------------------------------------------------ the model


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


# ------------------------------------------------------------------------------ the kernel


class CancelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cancel one of the caller's own calls on the same connection. It ends with CANCELLED."""

    call_id: int


class ModelInfo(msgspec.Struct, frozen=True):
    """One model that the kernel knows. Sizes in bytes, lengths in tokens."""

    name: str
    path: str
    state: Literal["unloaded", "waiting", "loading", "ready", "failed", "restarting"]
    reason: str
    description: str
    context_tokens: int
    seats: int
    seats_used: int
    running: int
    ready: int
    kv_type: str
    exact: str
    threads: int
    device: str
    core_os_pid: int
    core_restarts: int
    arena_bytes: int
    arena_used_bytes: int
    images: int
    file_bytes: int
    memory_bytes: int
    quantum_tokens: int
    chunk_tokens: int
    restorable: bool


class KernelStatus(msgspec.Struct, frozen=True):
    """What ``aios daemon status`` shows."""

    version: str
    os_pid: int
    uptime_s: float
    runtime_dir: str
    policy: str
    quantum_tokens: int
    processes: int
    calls: int
    calls_refused: int
    models: list[ModelInfo]
    warnings: list[str] = []
    """What the operator should look into."""


class ModelList(msgspec.Struct, frozen=True):
    """Models in the order they were first asked for."""

    models: list[ModelInfo]


class ModelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model by name or path."""

    name: Annotated[str, Meta(min_length=1, max_length=4096)]


class SchedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Change the policy, the quantum, the chunk or the batch width; ``None`` leaves one as it is.

    ``width``: how many requests may share one decode step (at most the number of seats).
    ``quantum_tokens`` and ``chunk_tokens``: 0 lets the measured speed of the machine decide.
    """

    policy: Annotated[str, Meta(max_length=64)] | None = None
    quantum_tokens: Annotated[int, Meta(ge=0, le=65536)] | None = None
    width: Annotated[int, Meta(ge=1, le=256)] | None = None
    chunk_tokens: Annotated[int, Meta(ge=0, le=4096)] | None = None


class SchedReply(msgspec.Struct, frozen=True):
    """The scheduler's settings in force; 0: decided by each model's measured speed."""

    policy: str
    policies: dict[str, str]
    quantum_tokens: int
    width: int
    chunk_tokens: int


class TraceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records of the newest slices and requests, as many as one message carries. ``seen``: what the
    reply before said, to go on from there; ``clear`` forgets what was told."""

    seen: dict[str, tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]] = {}
    clear: bool = False


class OpRecord(msgspec.Struct, frozen=True, array_like=True):
    """A context was moved: ``save``, ``load``, ``copy`` or ``spill``, for a request (0: a cache).

    ``size_bytes`` and ``seconds`` as the core measured them.
    """

    kind: str
    pid: int
    request_id: int
    tokens: int
    size_bytes: int
    seconds: float
    ok: bool


class SliceRecord(msgspec.Struct, frozen=True):
    """One slice: ``rows`` are (kernel pid, request id, tokens generated, prompt tokens computed);
    ``ops`` were done at its beginning."""

    model: str
    start_s: float
    end_s: float
    steps: int
    rows: list[tuple[int, int, int, int]]
    ops: list[OpRecord] = []


class RequestRecord(msgspec.Struct, frozen=True):
    """One finished request. ``outcome``: ``done`` or an error code; ``digest``: of its tokens."""

    request_id: int
    pid: int
    name: str
    model: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    digest: str
    timing: Timing
    cached_tokens: int = 0


class TraceReply(msgspec.Struct, frozen=True):
    """Of each model the oldest first; ``dropped`` older slices are forgotten. ``more``: ask for
    those that follow. ``seen``: numbers of the slice and the request that do, by model."""

    requests: list[RequestRecord]
    slices: list[SliceRecord]
    dropped: int
    more: bool = False
    seen: dict[str, tuple[int, int]] = {}


class CheckReply(msgspec.Struct, frozen=True):
    """What every accountant of the kernel found wrong with itself; empty when all is well."""

    problems: list[str]
    open_files: int
