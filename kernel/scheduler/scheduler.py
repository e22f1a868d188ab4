"""The scheduler of one model: which requests run in the next slice, and what each has used.

    next_slice → the core runs it → on_step for each token → on_slice_end → next_slice …

Promises that the policy's order decides alone, but for three cases: an account beyond its quota
waits, a request waits while another in the same slice computes a beginning that both share, and one
that cores keep dying of runs alone when its turn comes, so that it takes nobody along. A
slice under way is ended early only when the policy would now run somebody else. Work per slice
depends on runnable requests only. It does no I/O and reads no clock: the same code runs in the
kernel and in a simulator. fair_share.py keeps what accounts have used; pace.py works out
how long slices are when nobody says.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from aios.hw.core.messages import Op, Slice, SliceEnd, SliceRow, StepRow
from aios.hw.engine.engine import EngineInfo
from aios.kernel.context.manager import ContextManager
from aios.kernel.context.prefix import common
from aios.kernel.context.sequence import Sequence
from aios.syscalls.types.trace import SliceRecord

from . import policy
from .account import Account
from .fair_share import Shares, cells, fits
from .history import History
from .pace import chunk_tokens, quantum_tokens
from .request import Request

LONE_CHUNK_FACTOR = 2
"""How much larger a prompt chunk is while nobody reads a stream that would have to wait for it."""
LONELY_QUANTA = 4
"""Quanta in a slice while everybody who wants to run does."""
SHARED_TOKENS = 64
"""A beginning that another request is computing is worth waiting for from so many tokens on."""
SUSPECT_DEATHS = 2
"""A request that so many cores died of, perhaps, since its last token runs alone."""
_MOST_RECORDS = 20_000


@dataclass
class Settings:
    """What the operator may change while the kernel runs; shared by all models.

    ``None`` for quantum or chunk: by the speed that the core has measured.
    """

    policy: policy.Policy
    quantum_tokens: int | None
    width: int
    chunk_tokens: int | None


@dataclass
class _Running:
    slice: int
    start_s: float
    rows: list[Request]
    before: list[int]
    """Tokens each row had when the slice began."""
    yielding: bool = False


@dataclass
class _Choice:
    rows: list[Request] = field(default_factory=list)
    share_after: int | None = None
    """Prompt tokens after which a request that was left out can copy what a row has computed."""


class Scheduler:
    """Requests of one model. Times are passed in."""

    def __init__(self, model: str, settings: Settings) -> None:
        self._model, self._settings = model, settings
        self._context: ContextManager | None = None
        self._width = 1
        self._quantum, self._chunk, self._decode_cost = 16, 64, 1.0
        self._ready: dict[int, Request] = {}
        self._running: _Running | None = None
        self._slices = itertools.count(1)
        self._order = itertools.count()
        self.shares = Shares()
        self.records = History[SliceRecord](_MOST_RECORDS)

    def attach(self, context: ContextManager, info: EngineInfo) -> None:
        """A core is there: its seats, how many rows it takes in one batch, and its speed."""
        self._context = context
        self._width = info.rung.width or info.seats
        self._decode_cost = info.decode_token_s / max(info.prefill_token_s, 1e-9)
        self._chunk = chunk_tokens(info)
        self._quantum = quantum_tokens(info)

    @property
    def quantum(self) -> int:
        """Tokens of a quantum in force."""
        return self._settings.quantum_tokens or self._quantum

    @property
    def chunk(self) -> int:
        """Prompt tokens of a chunk in force."""
        return self._settings.chunk_tokens or self._chunk

    @property
    def busy(self) -> bool:
        """A slice is under way."""
        return self._running is not None

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
        request.decode_cost = self._decode_cost
        self.shares.wake(request.account, self._ready.values())
        request.move("ready", now)
        self._ready[request.id] = request

    def hold(self, request: Request, now: float) -> None:
        """Its agent is paused: do not run it until it is added again."""
        self._ready.pop(request.id, None)
        request.move("held", now)

    def remove(self, request: Request, now: float) -> None:
        """It has ended, whatever the reason; its seat and its reservation are free."""
        self._ready.pop(request.id, None)
        request.account.cells -= request.cells
        request.cells = 0
        request.move("done", now)
        if self._context:
            self._context.release(request)

    def next_slice(self, now: float) -> Slice | None:
        """The next slice, or None when one is under way or nobody can run."""
        if self._running or not self._context:
            return None
        choice = self._choose(now)
        if not choice.rows:
            if not self._context.busy:
                return None
            return self._slice(_Choice(), self._context.errands(), now)
        ops = self._context.seat_all(choice.rows, lambda owner: self._coldness(owner, now))
        for request in choice.rows:
            self._start(request, now)
        return self._slice(choice, ops, now)

    def _slice(self, choice: _Choice, ops: list[Op], now: float) -> Slice:
        chosen = choice.rows
        number = next(self._slices)
        self._running = _Running(number, now, list(chosen), [len(r.tokens) for r in chosen])
        return Slice(
            slice=number,
            ops=ops,
            rows=[SliceRow(r.id, r.seat) for r in chosen if r.seat is not None],
            steps=self._steps(choice),
            chunk_tokens=self.chunk,
            lone_chunk_tokens=self.chunk * LONE_CHUNK_FACTOR,
        )

    def wake_s(self, now: float) -> float | None:
        """When a request that waits for its quota can run; None when none does."""
        times = [r.account.may_run_s(now) for r in self._ready.values()]
        return min((at for at in times if at > now), default=None)

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

    def on_moved(self, ok: list[bool]) -> None:
        """Operations before the slice under way failed: requests that should have found tokens
        computed found none."""
        assert self._running and self._context
        failed = self._context.failed(ok)
        for request in self._running.rows:
            if request.id in failed:
                request.cached_tokens = 0

    def on_slice_end(self, end: SliceEnd, now: float) -> None:
        """Account for the slice; its requests are ready again."""
        running, self._running = self._running, None
        assert running and running.slice == end.slice and self._context
        ops = self._context.settle(end.ops)
        rows = []
        for row, request in enumerate(running.rows):
            drawn = len(request.tokens) - running.before[row]
            rows.append((request.pid, request.id, drawn, max(0, end.prefilled[row] - drawn)))
            self._context.ran(request, end.lengths[row])
            # Steps that only compute again what was lost do not use up its turn: they lengthen it,
            # or it could lose its seat again before it gets to anything new.
            new = end.lengths[row] > request.computed
            self._charge(request, end.lengths[row], drawn, now)
            if request.phase == "done":
                continue
            if end.prefilled[row]:  # not one that waited for the prompts of others
                request.used_steps += end.steps if new else -end.steps
            if request.phase == "running":
                request.move("ready", now)
            if self._steps_left(request) <= 0:
                request.turn = next(self._order)
                request.used_steps = 0
        self.shares.raise_floor(self._ready.values())
        self.records.append(SliceRecord(self._model, running.start_s, now, end.steps, rows, ops))

    def should_yield(self, now: float) -> int | None:
        """The slice under way, if it holds a paused request or lacks one that should run."""
        running = self._running
        if running is None or running.yielding or not running.rows:
            return None
        if not any(request.phase == "held" for request in running.rows):
            alive = [request for request in running.rows if request.phase == "running"]
            if self._all_wait(alive):
                return None
            missing = [r for r in self._choose(now).rows if r.phase != "running"]
            if not missing or not self._worth_yielding(missing, alive, now):
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

    # ------------------------------------------------------------------ choosing

    def _choose(self, now: float) -> _Choice:
        width = min(self._settings.width, self._width)
        ready = self._ready.values()
        jobs = [r for r in ready if not r.account.limited or self._may_run(r, now)]
        highest = min((request.rank for request in jobs), default=0)
        for request in jobs:
            request.outranked = request.rank > highest
        if self._settings.policy.shares:
            self.shares.project(jobs, self.quantum * self._decode_cost)
        choice = _Choice()
        reserved: Counter[Account] = Counter()
        filling = [
            r for r in jobs
            if r.seat is not None and r.length < r.prompt_tokens and not _suspect(r)
        ]  # fmt: skip
        for request in policy.pick(self._settings.policy, jobs, 2 * width, now):
            if len(choice.rows) == width:
                break
            if request in choice.rows or not fits(request, reserved[request.account]):
                continue
            if _suspect(request):
                if choice.rows:
                    continue
                choice.rows.append(request)
                break
            first = self._ahead(request, [*choice.rows, *filling], choice) or request
            if first not in choice.rows:
                reserved[first.account] += 0 if first.cells else cells(first)
                choice.rows.append(first)
        return choice

    def _may_run(self, request: Request, now: float) -> bool:
        """Its quotas let it. Asked before the policy picks, or those that must wait for their quota
        would take places from the others."""
        return request.account.may_run_s(now) <= now and fits(request)

    def _ahead(
        self, request: Request, others: Collection[Request], choice: _Choice
    ) -> Request | None:
        """Another request that is about to compute a long beginning which both have in common.

        It runs in place of this one, which then copies the result instead of computing it, too.
        """
        assert self._context
        if request.seat is not None or request.image or not self._context.shares:
            return None
        known: int | None = None
        begins = request.tokens[:SHARED_TOKENS]
        for other in others:
            if other.length >= other.prompt_tokens or other.tokens[:SHARED_TOKENS] != begins:
                continue
            both = min(common(request.tokens, other.tokens), len(request.tokens) - 1)
            if both < SHARED_TOKENS or both <= other.length:
                continue
            if known is None:
                known = self._context.shared(request)
            if both >= max(known, other.length) + SHARED_TOKENS:
                left = both - other.length
                choice.share_after = min(choice.share_after or left, left)
                return other
        return None

    def _all_wait(self, running: Collection[Request]) -> bool:
        """The slice is full and there is one class only, whose newcomers wait for its end: no need
        to work out who comes first, at each arrival, among all who could run."""
        return (
            not self._settings.policy.preempts
            and len(running) >= min(self._settings.width, self._width)
            and len({request.rank for request in self._ready.values()}) == 1
        )

    def _worth_yielding(
        self, missing: Collection[Request], running: Collection[Request], now: float
    ) -> bool:
        chosen = self._settings.policy
        if chosen.preempts or len(running) < min(self._settings.width, self._width):
            return True
        first = min(chosen.key(request, now)[0] for request in missing)
        return any(chosen.key(request, now)[0] > first for request in running)

    def _steps(self, choice: _Choice) -> int:
        if not choice.rows:
            return 0
        if len(choice.rows) == len(self._ready):
            return self.quantum * LONELY_QUANTA
        steps = self.quantum
        if self._settings.policy.turns:
            steps = min(self._steps_left(request) for request in choice.rows)
        if choice.share_after:
            steps = min(steps, -(-choice.share_after // self.chunk))
        return max(1, steps)

    def _start(self, request: Request, now: float) -> None:
        request.move("running", now)
        request.slices += 1
        if request.first_slice_s is None:
            request.first_slice_s = now
        if not request.cells and request.account.quota_cells is not None:
            request.cells = cells(request)
            request.account.cells += request.cells

    def _steps_left(self, request: Request) -> int:
        return policy.quantum_steps(self.quantum, request.nice) - request.used_steps

    def _coldness(self, owner: Sequence, now: float) -> tuple[float, ...]:
        assert isinstance(owner, Request)
        return (owner.phase == "held", *self._settings.policy.key(owner, now))

    # ------------------------------------------------------------------ accounting

    def _charge(self, request: Request, length: int, drawn: int, now: float) -> None:
        """Cached tokens cost nothing, nor does what is computed a second time."""
        fresh = max(0, length - max(request.computed, request.cached_tokens) - drawn)
        request.computed = max(request.computed, length)
        work = fresh + drawn * self._decode_cost
        request.done_work += work
        request.account.charge(fresh + drawn, now)
        self.shares.charge(request, work)


def _suspect(request: Request) -> bool:
    return request.core_deaths >= SUSPECT_DEATHS
