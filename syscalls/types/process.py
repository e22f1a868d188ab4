"""Request and reply types of ``proc.*``: processes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .common import MAX_ARGS, MAX_TIMEOUT_S, Name, Path, Ref, Rules, Text

Nice = Annotated[int, Meta(ge=-20, le=19)]
Weight = Annotated[float, Meta(gt=0, le=1000)]
Quota = Annotated[int, Meta(ge=1, le=1 << 40)]
Class = Literal["interactive", "normal", "batch"]
ProcessState = Literal["starting", "idle", "ready", "running", "paused", "ending", "dead"]


class Pid(msgspec.Struct, frozen=True):
    """The caller. ``pid`` is the kernel's number, not the host's."""

    pid: int
    name: str
    parent: int


class PsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List processes. ``all`` includes dead ones, of which the kernel remembers the newest
    1,000."""

    all: bool = False


class ProcessInfo(msgspec.Struct, frozen=True):
    """One row of the process table.

    ``cpu_s`` and ``rss_bytes``: the host's figures for the agent's own process. ``tokens_in`` and
    ``tokens_out``: prompt and generated tokens. ``context_tokens``: held by its running requests,
    or by its last one; ``window_tokens``: limit of one request. ``notes`` and ``note_bytes``: its
    session's memory, the interaction log included. ``weight`` and the quotas apply to the whole
    program. ``exit_code``: 128+n for signal n, as in a shell. ``waits``: tools that its calls wait
    for, and the pid that blocks or serves each.
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

    ``stdin``, ``stdout``, ``stderr`` (operator only): a file, or a FIFO that has a reader; None for
    output is the agent's log. ``env``: the whole environment if the operator spawns, additions to
    the parent's if an agent does. ``max_tokens``: limit on tokens that it and its children
    generate. ``timeout_s``: limit on its life. ``weight``, ``quota_tokens`` (computed in a minute)
    and ``quota_cells`` (KV cells held at once) apply to the whole program (operator only).
    ``group``: its privilege group, by default its parent's. ``rights`` replace the group's rights;
    ``allow`` and ``deny`` add rules. A child never has more rights than its parent. ``asks``
    (operator only): the spawner sits at a terminal and answers ``access.next``. ``python``
    (operator only): the interpreter; None is the kernel's own. A child has its parent's.
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
    """The new process. ``log``: the file for its output, used if that is not attached."""

    pid: int
    name: str
    os_pid: int
    log: str


class RefRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``ref``: a pid, a name, or a unique prefix of a name."""

    ref: Ref


class SignalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Signal an agent. ``kill``: SIGKILL to it and all it started. ``stop``: SIGTERM, and SIGKILL
    after ``grace_s``. ``pause`` and ``resume`` freeze and thaw it and its generation."""

    ref: Ref
    action: Literal["kill", "stop", "pause", "resume"]
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0


class ReniceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Change the fields that are not None. Weight and quotas apply to the whole program (operator
    only); a quota of 0 removes it."""

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
    """The file of a process's output. ``alive``: more may follow."""

    pid: int
    path: str
    alive: bool
