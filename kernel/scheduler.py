"""The scheduler of one model: which requests run in the next slice, and what each has used.

    next_slice → the core runs it → on_step for each token → on_slice_end → next_slice …

Promises that the policy's order decides alone, that a slice under way is ended early only when
the policy would now run somebody else, and that work per slice depends on runnable requests only.
It does no I/O and reads no clock: the same code runs in the kernel and in a simulator.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from aios.hw.messages import Slice, SliceEnd, SliceRow, StepRow
from aios.syscalls.types import SliceRecord

from . import policy
from .context import ContextManager
from .request import Request

LONE_CHUNK_FACTOR = 2
"""How much larger a prompt chunk is while no stream has to wait for it."""
_MOST_RECORDS = 20_000


@dataclass
class Settings:
    """What the operator may change while the kernel runs; shared by all models."""

    policy: policy.Policy
    quantum_tokens: int
    width: int
    chunk_tokens: int


@dataclass
class _Running:
    slice: int
    start_s: float
    rows: list[Request]
    before: list[int]
    """Tokens each row had when the slice began."""
    yielding: bool = False


class Scheduler:
    """Requests of one model. Times are passed in."""

    def __init__(self, model: str, settings: Settings) -> None:
        self._model, self._settings = model, settings
        self._context: ContextManager | None = None
        self._width = 1
        self._ready: dict[int, Request] = {}
        self._running: _Running | None = None
        self._slices = itertools.count(1)
        self._order = itertools.count()
        self.records: deque[SliceRecord] = deque(maxlen=_MOST_RECORDS)
        self.records_dropped = 0

    def attach(self, context: ContextManager, width: int) -> None:
        """A core is there: its seats, and how many rows it can take in one batch."""
        self._context, self._width = context, width

    @property
    def counts(self) -> tuple[int, int]:
        """Requests in the slice under way, and others that could run."""
        running = sum(r.phase == "running" for r in self._running.rows) if self._running else 0
        return running, len(self._ready) - running

    def add(self, request: Request, now: float) -> None:
        """The request has its tokens and may run."""
        if not request.arrival:
            request.arrival = next(self._order) + 1
        request.turn = next(self._order)
        request.used_steps = 0
        request.move("ready", now)
        self._ready[request.id] = request

    def hold(self, request: Request, now: float) -> None:
        """Its agent is paused: do not run it until it is added again."""
        self._ready.pop(request.id, None)
        request.move("held", now)

    def remove(self, request: Request, now: float) -> None:
        """It has ended, one way or another; its seat is free."""
        self._ready.pop(request.id, None)
        request.move("done", now)
        if self._context:
            self._context.release(request)

    def next_slice(self, now: float) -> Slice | None:
        """The next slice, or None when one is under way or nobody can run."""
        if self._running or not self._ready or not self._context:
            return None
        settings = self._settings
        chosen = policy.pick(settings.policy, self._ready.values(), self._batch_width())
        ops = self._context.seat_all(chosen, self._coldness)
        for request in chosen:
            request.move("running", now)
            request.slices += 1
            if request.first_slice_s is None:
                request.first_slice_s = now
        number = next(self._slices)
        self._running = _Running(number, now, list(chosen), [len(r.tokens) for r in chosen])
        return Slice(
            slice=number,
            ops=ops,
            rows=[SliceRow(r.id, r.seat) for r in chosen if r.seat is not None],
            steps=min(self._steps_left(r) for r in chosen),
            chunk_tokens=settings.chunk_tokens,
            lone_chunk_tokens=settings.chunk_tokens * LONE_CHUNK_FACTOR,
        )

    def on_step(self, rows: list[StepRow], now: float) -> Iterator[tuple[Request, StepRow]]:
        """Tokens that were drawn; yields the living requests they belong to, brought up to date."""
        running = {r.id: r for r in self._running.rows} if self._running else {}
        for row in rows:
            request = running.get(row.request)
            if request is None or request.phase == "done":
                continue  # cancelled while the core was drawing
            if request.first_token_s is None:
                request.first_token_s = now
            if row.token >= 0:
                request.tokens.append(row.token)
            if row.text:
                request.text.append(row.text)
            request.finish = row.finish
            yield request, row

    def on_slice_end(self, end: SliceEnd, now: float) -> None:
        """Account for the slice; its requests are ready again."""
        running, self._running = self._running, None
        assert running and running.slice == end.slice and self._context
        self._context.settle(end.ops)
        for request, length in zip(running.rows, end.lengths, strict=True):
            if request.phase == "done":
                continue
            request.length = length
            request.used_steps += end.steps
            if request.phase == "running":
                request.move("ready", now)
            if self._steps_left(request) <= 0:
                request.turn = next(self._order)
                request.used_steps = 0
        self._record(running, end.steps, now)

    def should_yield(self) -> int | None:
        """The slice under way, if it holds a paused request or lacks one that should run."""
        running = self._running
        if running is None or running.yielding:
            return None
        if not any(request.phase == "held" for request in running.rows):
            wanted = policy.pick(self._settings.policy, self._ready.values(), self._batch_width())
            if all(request.phase == "running" for request in wanted):
                return None
        running.yielding = True
        return running.slice

    def core_lost(self, now: float) -> list[Request]:
        """The core has died; returns the requests it was running, now ready again."""
        running, self._running = self._running, None
        victims = [r for r in running.rows if r.phase == "running"] if running else []
        for request in victims:
            request.move("ready", now)
        return victims

    def _batch_width(self) -> int:
        return min(self._settings.width, self._width)

    def _steps_left(self, request: Request) -> int:
        share = policy.quantum_steps(self._settings.quantum_tokens, request.nice)
        return share - request.used_steps

    def _coldness(self, request: Request) -> tuple[int, ...]:
        return (request.phase == "held", *self._settings.policy.key(request))

    def _record(self, running: _Running, steps: int, now: float) -> None:
        rows = [
            (request.pid, request.id, len(request.tokens) - before)
            for request, before in zip(running.rows, running.before, strict=True)
        ]
        self.records_dropped += len(self.records) == self.records.maxlen
        self.records.append(SliceRecord(self._model, running.start_s, now, steps, rows))
