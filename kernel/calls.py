"""Calls on the kernel itself: ``kernel.*``, ``sched.set``, ``trace.read`` and ``cancel``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aios.kernel.access.manager import AccessManager
from aios.kernel.context.store import KvStore
from aios.kernel.loop.clock import Clock
from aios.kernel.memory.manager import MemoryManager
from aios.kernel.model.info import describe
from aios.kernel.model.model import Model
from aios.kernel.model.models import Models
from aios.kernel.process.table import ProcessTable
from aios.kernel.scheduler import policy
from aios.kernel.scheduler.pace import Settings
from aios.kernel.trap.pending import Handler, Pending
from aios.kernel.trap.trap import Counts
from aios.syscalls.errors import Cancelled
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import (
    CancelRequest,
    CheckReply,
    KernelStatus,
    SchedReply,
    SchedRequest,
)
from aios.syscalls.types.trace import RequestRecord, SliceRecord, TraceReply, TraceRequest

_PAGE_REQUESTS, _PAGE_UNITS = 8000, 300_000
"""Limits on one page of a trace: requests, and rows of slices (about 16 bytes each)."""


class KernelCalls:
    """Status, checks, scheduler settings, trace and shutdown."""

    def __init__(
        self,
        table: ProcessTable,
        settings: Settings,
        models: Models,
        store: KvStore,
        memory: MemoryManager,
        access: AccessManager,
        shutdown: Callable[[], None],
        runtime: Path,
        counts: Counts,
        clock: Clock,
    ) -> None:
        self._counts, self._clock = counts, clock
        self._table, self._settings, self._models = table, settings, models
        self._store, self._memory, self._access = store, memory, access
        self._shutdown, self._runtime = shutdown, runtime
        self._started_s = clock.now()
        self.checks: list[Callable[[], list[str]]] = []
        """Checks of further accountants."""
        self.warnings: list[Callable[[], list[str]]] = []
        self.handlers: dict[str, Handler] = {
            "cancel": self._cancel,
            "kernel.status": self._status,
            "kernel.shutdown": self._stop,
            "kernel.check": self._check,
            "sched.set": self._sched,
            "trace.read": self._trace,
        }

    def _cancel(self, call: Pending, body: CancelRequest) -> Empty:
        """Cancel one of the caller's own calls on the same connection."""
        target = call.caller.pending.get((call.peer.route, body.call_id))
        if target:
            target.cancel(Cancelled("cancelled by its caller"))
        return Empty()

    def _status(self, _: Pending, __: Empty) -> KernelStatus:
        return KernelStatus(
            version=release(),
            os_pid=os.getpid(),
            uptime_s=self._clock.now() - self._started_s,
            runtime_dir=str(self._runtime),
            policy=self._settings.policy.name,
            quantum_tokens=self._settings.quantum_tokens or 0,
            processes=len(self._table),
            calls=self._counts.calls,
            calls_refused=self._counts.refused,
            models=[describe(model, self._models.jobs) for model in self._models],
            warnings=[line for warn in self.warnings for line in warn()],
        )

    def _stop(self, call: Pending, _: Empty) -> Empty:
        self._shutdown()
        return Empty()

    def _check(self, _: Pending, __: Empty) -> CheckReply:
        problems = self._table.check() + self._store.check() + self._memory.check()
        problems += self._access.audit.check() + self._access.approvals.check()
        for model in self._models:
            problems += model.check()
        for check in self.checks:
            problems += check()
        return CheckReply(problems, len(os.listdir("/proc/self/fd")))

    def _sched(self, _: Pending, body: SchedRequest) -> SchedReply:
        settings = self._settings
        chosen = policy.find(body.policy) if body.policy is not None else settings.policy
        settings.policy = chosen
        if body.quantum_tokens is not None:
            settings.quantum_tokens = body.quantum_tokens or None
        if body.chunk_tokens is not None:
            settings.chunk_tokens = body.chunk_tokens or None
        settings.width = body.width or settings.width
        self._models.reconsider()
        return SchedReply(
            settings.policy.name, {name: p.promise for name, p in policy.POLICIES.items()},
            settings.quantum_tokens or 0, settings.width, settings.chunk_tokens or 0,
        )  # fmt: skip

    def _trace(self, _: Pending, body: TraceRequest) -> TraceReply:
        return trace_page(self._models, body)


def trace_page(models: Iterable[Model], body: TraceRequest) -> TraceReply:
    """Return the next page of the trace: what the models recorded since the reader's last page."""
    slices: list[SliceRecord] = []
    requests: list[RequestRecord] = []
    seen: dict[str, tuple[int, int]] = {}
    more, dropped, room = False, 0, _PAGE_UNITS
    for model in models:
        ran, ended = model.scheduler.records, model.records
        first_slice, first_request = body.seen.get(model.name, (0, 0))
        found = ran.since(first_slice)
        sizes = itertools.accumulate(8 + len(one.rows) + 4 * len(one.ops) for one in found)
        fitting = [size for size in sizes if size <= room]
        room -= fitting[-1] if fitting else 0
        some = ended.since(first_request)
        shown = some[: _PAGE_REQUESTS - len(requests)]
        seen[model.name] = (
            ran.end - len(found) + len(fitting), ended.end - len(some) + len(shown)
        )  # fmt: skip
        more |= seen[model.name] != (ran.end, ended.end)
        slices += found[: len(fitting)]
        requests += shown
        dropped += ran.dropped
        if body.clear:
            ran.forget(seen[model.name][0])
            ended.forget(seen[model.name][1])
    return TraceReply(requests, slices, dropped, more, seen)


def release() -> str:
    """Return the installed version."""
    try:
        return version("aiosd")
    except PackageNotFoundError:
        return "unknown"
