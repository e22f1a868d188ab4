"""The description of a model: one row of ``aios model ls``."""

from __future__ import annotations

from aios.syscalls.types.kernel import ModelInfo

from .idle_jobs import IdleJobs
from .memory_need import needed_bytes
from .model import Model


def describe(model: Model, jobs: IdleJobs) -> ModelInfo:
    """Describe a model as it is now; what only a core knows is as the last one reported it."""
    info, context, arena = model.info, model.context, model.store.arena
    running, ready = model.scheduler.counts
    return ModelInfo(
        name=model.name,
        path=model.path,
        state=model.state,
        reason=model.core.reason,
        description=info.description if info else "",
        context_tokens=info.context_tokens if info else 0,
        seats=info.seats if info else 0,
        seats_used=context.seats_used if context else 0,
        running=running,
        ready=ready,
        kv_type=info.rung.kv_type if info else "",
        exact=(info.rung.name if info.exact else "off") if info else "",
        threads=info.threads if info else 0,
        device=info.device if info else "",
        core_os_pid=model.core.os_pid,
        core_restarts=model.core.restarts,
        arena_bytes=arena.size_bytes,
        arena_used_bytes=arena.used_bytes,
        images=context.images if context else 0,
        file_bytes=model.store.disk_used_bytes,
        memory_bytes=needed_bytes(model),
        quantum_tokens=model.scheduler.pace.quantum_tokens,
        chunk_tokens=model.scheduler.pace.chunk_tokens,
        restorable=info.restorable if info else True,
        background=jobs.describe(model),
    )
