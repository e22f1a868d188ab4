"""Request and reply types of ``kernel.*``, ``sched.*`` and ``model.*``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class CancelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cancel one of the caller's own calls on the same connection. It ends with CANCELLED."""

    call_id: int


class ModelInfo(msgspec.Struct, frozen=True):
    """One model of the kernel. Sizes in bytes, lengths in tokens."""

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
    background: str = ""
    """What is done for it while it is idle, or waits to be done."""


class KernelStatus(msgspec.Struct, frozen=True):
    """The state of the kernel. ``warnings``: what needs the operator's attention."""

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


class ModelList(msgspec.Struct, frozen=True):
    """Models in the order of their first use."""

    models: list[ModelInfo]


class ModelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model by its name or path."""

    name: Annotated[str, Meta(min_length=1, max_length=4096)]


class SchedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Change the settings of the scheduler that are not None.

    ``width``: limit on requests in one decode step (at most the number of seats).
    ``quantum_tokens`` and ``chunk_tokens``: 0 derives them from the measured speed.
    """

    policy: Annotated[str, Meta(max_length=64)] | None = None
    quantum_tokens: Annotated[int, Meta(ge=0, le=65536)] | None = None
    width: Annotated[int, Meta(ge=1, le=256)] | None = None
    chunk_tokens: Annotated[int, Meta(ge=0, le=4096)] | None = None


class SchedReply(msgspec.Struct, frozen=True):
    """The settings of the scheduler; 0: derived from each model's measured speed."""

    policy: str
    policies: dict[str, str]
    quantum_tokens: int
    width: int
    chunk_tokens: int


class CheckReply(msgspec.Struct, frozen=True):
    """Errors in the kernel's own accounting; empty if all is well."""

    problems: list[str]
    open_files: int
