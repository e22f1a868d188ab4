"""The scheduler of one model: slice after slice, and what each request has used.

    next_slice → the core runs it → on_step for each token → on_slice_end → next_slice …

Promises that a slice under way is ended early only when the policy would now run another request,
and that work per slice depends on runnable requests only. It does no I/O and reads no clock: the
same code runs in the kernel and in a simulator. chooser.py decides who runs, policy.py in which
order; fair_share.py keeps what accounts have used, pace.py how long slices are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from aios.hw.core.messages import Op, Slice, SliceEnd, SliceRow, StepRow
from aios.hw.engine.engine import EngineInfo
from aios.kernel.context.manager import ContextManager
from aios.syscalls.types.trace import SliceRecord

from .chooser import Choice, Chooser
from .fair_share import Shares, cells
from .history import History
from .pace import LONE_CHUNK_FACTOR, Pace, Settings
from .request import Request

_MAX_RECORDS = 20_000
"""Limit on slices kept for the trace."""


@dataclass
class _Running:
    slice: int
    start_s: float
    rows: list[Request]
    before: list[int]
    """Tokens that each row had when the slice began."""
    yielding: bool = False


class Scheduler:
    """Requests of one model. Times are passed in."""

    def __init__(self, model: str, settings: Settings) -> None:
        self._model = model
        self._context: ContextManager | None = None
        self._ready: dict[int, Request] = {}
        self._running: _Running | None = None
        self._slices = itertools.count(1)
        self._order = itertools.count()
        self.pace = Pace(settings)
        self.shares = Shares()
        self.records = History[SliceRecord](_MAX_RECORDS)
        self._chooser = Chooser(settings, self.pace, self.shares, self._ready.values())

    def attach(self, context: ContextManager, info: EngineInfo) -> None:
        """Use a new core, with its seats and its speed."""
        self._context = self._chooser.context = context
        self.pace.measured(info)

    @property
    def busy(self) -> bool:
        """A slice is under way."""
        return self._running is not None

    @property
    def counts(self) -> tuple[int, int]:
        """Requests in the slice under way, and others that could run."""
        running = sum(r.phase == "running" for r in self._running.rows) if self._running else 0
        return running, len(self._ready) - running

    # ------------------------------------------------------------------ requests

    def add(self, request: Request, now: float) -> None:
        """Let a request run that has its tokens."""
        if not request.arrival:
            request.arrival = next(self._order) + 1
        request.turn = next(self._order)
        request.used_steps = 0
        request.decode_cost = self.pace.decode_cost
        self.shares.wake(request.account, self._ready.values())
        request.move("ready", now)
        self._ready[request.id] = request

    def hold(self, request: Request, now: float) -> None:
        """Do not run a request until it is added again: its agent is paused."""
        self._ready.pop(request.id, None)
        request.move("held", now)

    def remove(self, request: Request, now: float) -> None:
        """Forget a request that has ended, and free its seat and its reservation."""
        self._ready.pop(request.id, None)
        request.account.cells -= request.cells
        request.cells = 0
        request.move("done", now)
        if self._context:
            self._context.release(request)

    def wake_s(self, now: float) -> float | None:
        """Return when a request that waits for its quota can run; None when none does."""
        times = [r.account.may_run_s(now) for r in self._ready.values()]
        return min((at for at in times if at > now), default=None)

    # ------------------------------------------------------------------ slices

    def next_slice(self, now: float) -> Slice | None:
        """Return the next slice, or None when one is under way or no request can run."""
        if self._running or not self._context:
            return None
        choice = self._chooser.choose(now)
        if not choice.rows and not self._context.busy:
            return None
        ops = self._context.seat_all(choice.rows, lambda owner: self._chooser.coldness(owner, now))
        for request in choice.rows:
            self._start(request, now)
        return self._slice(choice, ops, now)

    def should_yield(self, now: float) -> int | None:
        """Return the slice under way if it holds a paused request or lacks one that should run."""
        running = self._running
        if running is None or running.yielding or not running.rows:
            return None
        if not any(request.phase == "held" for request in running.rows):
            alive = [request for request in running.rows if request.phase == "running"]
            if not self._chooser.others_first(alive, now):
                return None
        running.yielding = True
        return running.slice

    def _start(self, request: Request, now: float) -> None:
        request.move("running", now)
        request.slices += 1
        if request.first_slice_s is None:
            request.first_slice_s = now
        if not request.cells and request.account.quota_cells is not None:
            request.cells = cells(request)
            request.account.cells += request.cells

    def _slice(self, choice: Choice, ops: list[Op], now: float) -> Slice:
        chosen = choice.rows
        number = next(self._slices)
        self._running = _Running(number, now, list(chosen), [len(r.tokens) for r in chosen])
        return Slice(
            slice=number,
            ops=ops,
            rows=[SliceRow(r.id, r.seat) for r in chosen if r.seat is not None],
            steps=self._chooser.steps(choice),
            chunk_tokens=self.pace.chunk_tokens,
            lone_chunk_tokens=self.pace.chunk_tokens * LONE_CHUNK_FACTOR,
        )

    # ------------------------------------------------------------------ results

    def on_step(self, rows: list[StepRow], now: float) -> Iterator[tuple[Request, StepRow]]:
        """Note tokens that were drawn; yield the living requests that they belong to."""
        running = {r.id: r for r in self._running.rows} if self._running else {}
        for row in rows:
            request = running.get(row.request)
            if request is None or request.phase == "done":
                continue  # cancelled while the core was drawing
            if request.first_token_s is None:
                request.first_token_s = now
            if row.token >= 0:
                request.tokens.append(row.token)
                request.drafted_tokens += row.drafted
            if row.text:
                request.text.append(row.text)
            if row.reasoning:
                request.reasoning.append(row.reasoning)
            request.finish, request.calls = row.finish, row.calls
            yield request, row

    def on_moved(self, ok: list[bool]) -> None:
        """Note that operations before the slice under way failed: requests that should have found
        tokens computed found none."""
        assert self._running and self._context
        failed = self._context.failed(ok)
        for request in self._running.rows:
            if request.id in failed:
                request.cached_tokens = 0

    def on_slice_end(self, end: SliceEnd, now: float) -> None:
        """Account for the slice; its requests are ready again."""
        running, self._running = self._running, None
        assert running and running.slice == end.slice and self._context
        ops = self._context.settle(end.ops, now)
        rows = []
        for row, request in enumerate(running.rows):
            drawn = len(request.tokens) - running.before[row]
            rows.append((request.pid, request.id, drawn, max(0, end.prefilled[row] - drawn)))
            self._row_ended(request, drawn, row, end, now)
        self.shares.raise_floor(self._ready.values())
        self.records.append(SliceRecord(self._model, running.start_s, now, end.steps, rows, ops))

    def core_lost(self, now: float) -> list[Request]:
        """Note that the core has died; return the requests it was running, now ready again."""
        running, self._running = self._running, None
        victims = [r for r in running.rows if r.phase == "running"] if running else []
        for request in victims:
            request.move("ready", now)
        return victims

    def _row_ended(self, request: Request, drawn: int, row: int, end: SliceEnd, now: float) -> None:
        assert self._context
        length = end.lengths[row]
        self._context.ran(request, length)
        # Steps that only compute again what was lost do not use up its turn: they lengthen it, or
        # it could lose its seat again before it gets to anything new.
        new = length > request.computed
        self._charge(request, length, drawn, now)
        if request.phase == "done":
            return
        if end.prefilled[row]:  # not one that waited for the prompts of others
            request.used_steps += end.steps if new else -end.steps
        if request.phase == "running":
            request.move("ready", now)
        if self._chooser.steps_left(request) <= 0:
            request.turn = next(self._order)
            request.used_steps = 0

    def _charge(self, request: Request, length: int, drawn: int, now: float) -> None:
        """Charge new work only: drawn tokens, and those of the prompt that are neither cached nor
        computed a second time."""
        known = max(request.computed, request.cached_tokens)
        fresh = max(0, min(length, request.prompt_tokens) - known)
        request.computed = max(request.computed, length)
        work = fresh + drawn * self.pace.decode_cost
        request.done_work += work
        request.account.charge(fresh + drawn, now)
        self.shares.charge(request, work)
