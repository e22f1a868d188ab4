"""Operations that a model's core has been, or will be, asked to carry out on seats and images.

They go with the next slice and are done in the order in which they were planned. Promises that
whoever planned one is told exactly once what came of it, also when the core dies before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from aios.hw.core.messages import Op, OpResult
from aios.syscalls.types.trace import OpRecord

from .sequence import Sequence

log = logging.getLogger("aios.context")

_WARN_S = 60.0
"""A full disk is told once in so long."""

Settle = Callable[[OpResult | None], None]
"""Gets an operation's result, None when the core died before there was one."""


@dataclass(eq=False)
class _Planned:
    op: Op
    request_id: int
    pid: int
    settle: Settle


class Operations:
    """Those that are planned or under way, in order."""

    def __init__(self) -> None:
        self._planned: list[_Planned] = []
        self._warned_s = float("-inf")

    def __bool__(self) -> bool:
        return bool(self._planned)

    def plan(self, op: Op, sequence: Sequence | None, settle: Settle) -> None:
        """Add one, for a request or for nobody in particular."""
        number, pid = (sequence.id, sequence.pid) if sequence else (0, 0)
        self._planned.append(_Planned(op, number, pid, settle))

    def listed(self) -> list[Op]:
        """What the core is to do."""
        return [planned.op for planned in self._planned]

    def settle(self, results: list[OpResult]) -> list[OpRecord]:
        """The first ones are done, with these results; returns them for the trace."""
        planned, self._planned = self._planned[: len(results)], self._planned[len(results) :]
        records = []
        for plan, result in zip(planned, results, strict=True):
            plan.settle(result)
            if plan.op.path and not result.ok:
                self._warn(plan.op, result)
            if plan.op.kind != "trim":
                records.append(OpRecord(plan.op.kind, plan.pid, plan.request_id, plan.op.tokens,
                                        result.size_bytes, result.seconds, result.ok))  # fmt: skip
        return records

    def _warn(self, op: Op, result: OpResult) -> None:
        now = time.monotonic()
        if now - self._warned_s > _WARN_S:
            self._warned_s = now
            log.warning("a context cannot be %s %s: %s; it is computed again when it is wanted",
                        "read from" if op.kind == "load" else "written to", op.path,
                        result.reason)  # fmt: skip

    def failed(self, ok: list[bool]) -> set[int]:
        """Requests whose seats are empty because an operation failed."""
        return {
            plan.request_id
            for plan, fine in zip(self._planned, ok, strict=False)
            if not fine and plan.op.kind != "save"
        }

    def lost(self) -> None:
        """The core has died: none of them will be done."""
        planned, self._planned = self._planned, []
        for plan in planned:
            plan.settle(None)
