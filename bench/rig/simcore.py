"""A simulated machine: the kernel's scheduler and context manager on a fake core and virtual clock.

The kernel's own code makes the decisions; only the core is simulated. A cost model says how long a
slice takes, and each request ends at the length that the workload gives it. Nothing sleeps, so
hours pass in seconds, and the same seed gives the same schedule.
"""

from __future__ import annotations

import heapq
import itertools
import time
from array import array
from collections.abc import Iterable
from typing import NamedTuple

from aios.hw.core.messages import OpResult, Slice, SliceEnd, StepRow
from aios.hw.engine.engine import EngineInfo, Rung
from aios.hw.engine.sampling import SamplingParams
from aios.hw.machine.arena import Arena
from aios.kernel.context.manager import ContextManager
from aios.kernel.context.store import KvStore
from aios.kernel.scheduler import policy
from aios.kernel.scheduler.account import Account
from aios.kernel.scheduler.pace import Settings
from aios.kernel.scheduler.request import Request
from aios.kernel.scheduler.scheduler import Scheduler

PREFILL_TOKEN_S, STEP_S, ROW_S, MOVED_BYTES_PER_S = 0.0035, 0.012, 0.004, 5e9
"""Costs of a small model on two cores: a step has a fixed cost and a cost for each row."""
TOKEN_BYTES = 12_288


class Job(NamedTuple):
    """One request of a workload; ``klass`` and ``weight`` as in aios."""

    at_s: float
    account: int
    prompt: int
    reply: int
    klass: str = "normal"
    weight: float = 1.0


class Outcome(NamedTuple):
    """The result of a workload. Times are virtual, except ``host_slice_s``, which is real."""

    turnaround_s: dict[int, float]
    wait_s: dict[int, float]
    served: dict[int, int]
    slices: int
    host_slice_s: float
    end_s: float


def info(seats: int) -> EngineInfo:
    """Return the engine that the cost model simulates."""
    return EngineInfo(
        description="simulated", model_hash="sim", build="sim", context_tokens=8192,
        train_context_tokens=8192, seats=seats, batch_tokens=2048, vocab_size=256, threads=2,
        device="none", rung=Rung("sim"), exact=True, image_fixed_bytes=0,
        image_token_bytes=TOKEN_BYTES, prefill_token_s=PREFILL_TOKEN_S, step_s=STEP_S + ROW_S,
        decode_token_s=(STEP_S + ROW_S * seats) / seats,
    )  # fmt: skip


class Simulation:
    """One model under one policy; with ``oracle`` the policy knows the length of each reply."""

    def __init__(
        self, name: str, seats: int = 16, quantum: int | None = None, *, oracle: bool = False
    ) -> None:
        self._oracle = oracle
        self._store = KvStore(Arena(1 << 36), None, 0)  # nothing is written, so no memory is used
        self._settings = Settings(policy.find(name), quantum, seats, None)
        self.scheduler = Scheduler("sim", self._settings)
        self._context = ContextManager(self._store, info(seats))
        self.scheduler.attach(self._context, info(seats))
        self._replies: dict[int, int] = {}
        self._accounts: dict[int, Account] = {}
        self._living: dict[int, Request] = {}
        self._ended_s: dict[int, float] = {}
        self.now = 0.0

    def run(self, jobs: Iterable[Job], idle: int = 0, until_s: float = float("inf")) -> Outcome:
        """Run all jobs to their end or until ``until_s``, with ``idle`` agents that do nothing."""
        arrivals = [(job.at_s, number, job) for number, job in enumerate(jobs, 1)]
        heapq.heapify(arrivals)
        for number in range(idle):
            self._accounts[-number - 1] = Account(-number - 1)
        turnaround, wait, served = {}, {}, {}
        host_s, slices = 0.0, 0
        while (arrivals or self._living) and self.now < until_s:
            while arrivals and arrivals[0][0] <= self.now:
                self._arrive(*heapq.heappop(arrivals)[1:])
            start = time.perf_counter()
            command = self.scheduler.next_slice(self.now)
            host_s += time.perf_counter() - start
            if command is None:
                self.now = arrivals[0][0]
                continue
            slices += 1
            ended: list[Request] = []
            host_s += self._play(command, arrivals, ended)
            for request in ended:
                turnaround[request.id] = self._ended_s[request.id] - request.received_s
                wait[request.id] = (request.first_slice_s or self.now) - request.received_s
                served[request.id] = len(request.tokens) - request.prompt_tokens
        for request in self._living.values():
            served[request.id] = len(request.tokens) - request.prompt_tokens
        return Outcome(turnaround, wait, served, slices, host_s / max(1, slices), self.now)

    def close(self) -> None:
        """Close the arena's descriptor."""
        self._store.close()

    def _arrive(self, number: int, job: Job) -> None:
        account = self._accounts.setdefault(job.account, Account(job.account, job.weight))
        request = Request(
            id=number, pid=job.account, name=f"agent-{job.account}", rank=policy.RANKS[job.klass],
            nice=0, account=account, params=SamplingParams(max_tokens=4096, seed=0),
            received_s=job.at_s, phase_since_s=job.at_s,
            expected_tokens=job.reply if self._oracle else None,
        )  # fmt: skip
        request.tokens = array("i", itertools.repeat(number, job.prompt))
        request.prompt_tokens = job.prompt
        self._replies[number] = job.reply
        self._living[number] = request
        self.scheduler.add(request, self.now)

    def _play(
        self, command: Slice, arrivals: list[tuple[float, int, Job]], finished: list[Request]
    ) -> float:
        """Play the core for one slice; return the real seconds spent in the scheduler."""
        rows = [self._living[row.request] for row in command.rows]
        lengths = [request.length for request in rows]
        before = list(lengths)
        self.now += sum(op.tokens * TOKEN_BYTES / MOVED_BYTES_PER_S for op in command.ops)
        host_s, steps, ending = 0.0, 0, False
        while steps < command.steps and not ending:
            steps += 1
            drawn = self._step(command, rows, lengths)
            start = time.perf_counter()
            told = list(self.scheduler.on_step(drawn, self.now))
            ended = [request for request, row in told if row.finish]
            for request in ended:
                self.scheduler.remove(request, self.now)
                self._ended_s[request.id] = self.now
                del self._living[request.id]
            finished += ended
            while arrivals and arrivals[0][0] <= self.now:
                self._arrive(*heapq.heappop(arrivals)[1:])
                ended = ended or rows
            if ended:
                ending = self.scheduler.should_yield(self.now) is not None
            host_s += time.perf_counter() - start
            if all(request.finish for request in rows):
                break
        grown = [after - b for after, b in zip(lengths, before, strict=True)]
        results = [OpResult(True, op.tokens * TOKEN_BYTES) for op in command.ops]
        start = time.perf_counter()
        self.scheduler.on_slice_end(
            SliceEnd(command.slice, steps, results, lengths, grown), self.now
        )
        return host_s + time.perf_counter() - start

    def _step(self, command: Slice, rows: list[Request], lengths: list[int]) -> list[StepRow]:
        """Compute one token of each generating row and share a chunk of prompt among the rest."""
        live = [index for index, request in enumerate(rows) if not request.finish]
        filling = [i for i in live if lengths[i] < len(rows[i].tokens) - 1]
        room = command.chunk_tokens if len(filling) < len(live) else command.lone_chunk_tokens
        drawn, prompt = [], 0
        for index in live:
            request = rows[index]
            pending = len(request.tokens) - lengths[index]
            taken = min(pending, room - prompt) if index in filling else 1
            prompt += taken if index in filling else 0
            lengths[index] += taken
            if taken == pending:
                generated = len(request.tokens) - request.prompt_tokens + 1
                ends = generated >= self._replies[request.id]
                drawn.append(StepRow(request.id, 1, "", "stop" if ends else ""))
        generating = len(live) - len(filling)
        self.now += STEP_S + ROW_S * generating + PREFILL_TOKEN_S * prompt
        return drawn
