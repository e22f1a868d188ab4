"""Operations on seats and images that a model's core has been, or will be, asked to carry out.

They go with the next slice and are carried out in the order in which they were planned. The promise
of each is settled exactly once, also when the core dies before.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from aios.hw.core.messages import Op, OpResult
from aios.kernel.loop.task import Promise
from aios.syscalls.types.trace import OpRecord

from .sequence import Sequence

log = logging.getLogger("aios.context")

_WARN_S = 60.0
"""Shortest time between two warnings about files that cannot be read or written."""

Result = OpResult | None
"""The result of an operation; None when the core died before there was one."""


@dataclass(eq=False)
class _Planned:
    op: Op
    request_id: int
    pid: int
    result: Promise[Result] = field(default_factory=Promise)


class Operations:
    """The planned operations, those under way first."""

    def __init__(self) -> None:
        self._planned: list[_Planned] = []
        self._warned_s = float("-inf")

    def __bool__(self) -> bool:
        return bool(self._planned)

    def plan(self, op: Op, sequence: Sequence | None) -> Promise[Result]:
        """Add an operation; ``sequence``: the one that it is done for, if any."""
        number, pid = (sequence.id, sequence.pid) if sequence else (0, 0)
        self._planned.append(_Planned(op, number, pid))
        return self._planned[-1].result

    def listed(self) -> list[Op]:
        """Return what the core is to do, in order."""
        return [planned.op for planned in self._planned]

    def settle(self, results: list[OpResult], now: float) -> list[OpRecord]:
        """Settle the first operations with their results; return them for the trace."""
        planned, self._planned = self._planned[: len(results)], self._planned[len(results) :]
        records = []
        for plan, result in zip(planned, results, strict=True):
            plan.result.resolve(result)
            if plan.op.path and not result.ok:
                self._warn(plan.op, result, now)
            if plan.op.kind != "trim":
                records.append(OpRecord(plan.op.kind, plan.pid, plan.request_id, plan.op.tokens,
                                        result.size_bytes, result.seconds, result.ok))  # fmt: skip
        return records

    def failed(self, ok: list[bool]) -> set[int]:
        """Return the requests whose seats are empty because an operation failed."""
        return {
            plan.request_id
            for plan, fine in zip(self._planned, ok, strict=False)
            if not fine and plan.op.kind != "save"
        }

    def lost(self) -> None:
        """Settle all with None: the core has died."""
        planned, self._planned = self._planned, []
        for plan in planned:
            plan.result.resolve(None)

    def _warn(self, op: Op, result: OpResult, now: float) -> None:
        if now - self._warned_s > _WARN_S:
            self._warned_s = now
            log.warning("a context cannot be %s %s: %s; it is computed again when it is wanted",
                        "read from" if op.kind == "load" else "written to", op.path,
                        result.reason)  # fmt: skip
