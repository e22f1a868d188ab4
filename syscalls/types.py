"""Request and reply types of the calls on processes, messages, models and the kernel.

All are frozen. Limits are part of the type, so the boundary checks them before a handler runs.
Times are seconds on the kernel's monotonic clock unless the name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_TEXT_BYTES = 4 << 20
"""Longest text in one field (characters). Longer prompts cannot fit any context window served."""
MAX_ARGS = 1024
MAX_TIMEOUT_S = 7 * 24 * 3600.0

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z"
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=NAME_PATTERN)]
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
    ``access.next`` (the operator's only). ``python`` is the interpreter that runs it (the
    operator's only): None is the kernel's own, and a child has its parent's.
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
    python: Annotated[str, Meta(max_length=4096, pattern="^/")] | None = None


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


class CheckReply(msgspec.Struct, frozen=True):
    """What every accountant of the kernel found wrong with itself; empty when all is well."""

    problems: list[str]
    open_files: int
