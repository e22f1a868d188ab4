"""Policies as pure functions, and the scheduler without a core, on a clock that the test turns."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from aios.hw.core.messages import Op, Slice, SliceEnd, StepRow
from aios.hw.core.seat_operations import SeatOperations
from aios.hw.engine.engine import EngineSettings, Row
from aios.hw.engine.fake import FakeEngine
from aios.hw.engine.sampling import SamplingParams
from aios.hw.machine.arena import Arena
from aios.kernel.context.manager import ContextManager
from aios.kernel.context.store import KvStore
from aios.kernel.loop.states import IllegalTransition, step
from aios.kernel.process.states import LIVES
from aios.kernel.scheduler import policy
from aios.kernel.scheduler.account import Account
from aios.kernel.scheduler.pace import Settings
from aios.kernel.scheduler.request import PHASES, Request
from aios.kernel.scheduler.scheduler import Scheduler
from aios.syscalls.errors import InvalidArgument


def make_request(number: int, prompt: int = 3, rank: int = 1, nice: int = 0) -> Request:
    request = Request(
        id=number, pid=number, name=f"a{number}", rank=rank, nice=nice,
        params=SamplingParams(max_tokens=1000, seed=number), prompt="x", account=Account(number),
    )  # fmt: skip
    request.tokens.extend([number % 200 + 1] * prompt)
    request.prompt_tokens = prompt
    return request


class Machine:
    """A scheduler and a played core on a fake engine, one slice at a time."""

    def __init__(
        self,
        name: str = "rr",
        seats: int = 2,
        width: int = 1,
        quantum: int = 4,
        arena: int = 1 << 20,
    ) -> None:
        self.engine = FakeEngine(EngineSettings(path="fake:end=0", seats=seats))
        self.arena = Arena(arena)
        self.store = KvStore(self.arena, None, 0)
        self.context = ContextManager(self.store, self.engine.info)
        self.settings = Settings(policy.find(name), quantum, width, 8)
        self.scheduler = Scheduler("fake", self.settings)
        self.scheduler.attach(self.context, self.engine.info)
        self.operations = SeatOperations(self.engine, self.arena)
        self.now = 0.0
        self.living: dict[int, Request] = {}
        self.served: list[int] = []

    def add(self, request: Request) -> Request:
        self.living[request.id] = request
        self.scheduler.add(request, self.now)
        return request

    def slice(self, most_steps: int = 1000) -> Slice | None:
        command = self.scheduler.next_slice(self.now)
        if command is None:
            return None
        ops = [self.operations.carry_out(op) for op in command.ops]
        steps = min(command.steps, most_steps)
        before = [self.engine.length(row.seat) for row in command.rows]
        for _ in range(steps):
            self.now += 1.0
            rows = [self._step(row.request, row.seat) for row in command.rows]
            list(self.scheduler.on_step([row for row in rows if row], self.now))
        self.served += [row.request for row in command.rows for _ in range(steps)]
        lengths = [self.engine.length(row.seat) for row in command.rows]
        grown = [b - a for a, b in zip(before, lengths, strict=True)]
        self.scheduler.on_slice_end(SliceEnd(command.slice, steps, ops, lengths, grown), self.now)
        assert self.context.check(self.living.values()) == [] == self.store.check()
        return command

    def ops(self) -> list[Op]:
        """Run a slice; its operations on seats."""
        command = self.slice()
        assert command
        return command.ops

    def _step(self, number: int, seat: int) -> StepRow | None:
        request = self.living.get(number)
        if request is None:
            return None
        at = self.engine.length(seat)
        tokens = np.array(request.tokens[at:], np.int32)
        logits = self.engine.decode([Row(seat, at, tokens, True)])[seat]
        return StepRow(number, int(logits.argmax()), "", "")

    def end(self, request: Request) -> None:
        del self.living[request.id]
        self.scheduler.remove(request, self.now)


def test_fifo_runs_to_completion_and_rr_takes_turns() -> None:
    for name, expected in (("fifo", [1] * 12), ("rr", [1] * 4 + [2] * 4 + [3] * 4)):
        machine = Machine(name)
        for number in (1, 2, 3):
            machine.add(make_request(number))
        for _ in range(3):
            machine.slice()
        assert machine.served == expected


def test_a_higher_class_runs_next_and_asks_for_the_slice_to_end() -> None:
    machine = Machine("fifo")
    machine.add(make_request(1, rank=2))
    assert machine.scheduler.next_slice(0.0)
    assert machine.scheduler.should_yield(0.0) is None
    machine.add(make_request(2, rank=0))
    assert machine.scheduler.should_yield(0.0) == 1
    assert machine.scheduler.should_yield(0.0) is None, "it is asked once"


def test_equals_wait_for_the_quantum() -> None:
    machine = Machine("rr")
    machine.add(make_request(1))
    assert machine.scheduler.next_slice(0.0)
    machine.add(make_request(2))
    assert machine.scheduler.should_yield(0.0) is None


def test_a_slice_cut_short_keeps_its_turn() -> None:
    machine = Machine("rr")
    for number in (1, 2):
        machine.add(make_request(number))
    machine.slice(most_steps=1)
    machine.slice()
    assert machine.served == [1, 1, 1, 1]


def test_a_nicer_request_gets_a_smaller_share() -> None:
    machine = Machine("rr", quantum=16)
    machine.add(make_request(1, nice=0))
    machine.add(make_request(2, nice=5))
    for _ in range(20):
        machine.slice()
    shares = Counter(machine.served)
    assert 2.5 < shares[1] / shares[2] < 3.7


def test_seats_are_kept_until_needed() -> None:
    machine = Machine("rr", seats=3, width=1)
    for number in (1, 2, 3):
        machine.add(make_request(number))
    kinds = [op.kind for _ in range(9) for op in machine.ops()]
    assert kinds == ["trim"] * 3, "three seats for three: none is parked"
    machine.add(make_request(4))
    kinds = [op.kind for _ in range(8) for op in machine.ops()]
    assert "save" in kinds and "load" in kinds


@pytest.mark.parametrize("arena", [4096, 1 << 16, 1 << 22])
@pytest.mark.parametrize("seed", range(6))
def test_any_schedule_gives_the_tokens_of_running_alone(seed: int, arena: int) -> None:
    """Arrivals, classes, pauses and ends are random; there is room for images or none."""
    rng = random.Random(seed)
    machine = Machine("fifo", rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 9), arena)
    requests = {n: make_request(n, rng.randint(1, 60), rng.randint(0, 2)) for n in range(1, 13)}
    waiting = list(requests.values())
    for _ in range(400):
        if waiting and rng.random() < 0.3:
            machine.add(waiting.pop())
        machine.settings.policy = policy.find(rng.choice(sorted(policy.POLICIES)))
        for request in list(machine.living.values()):
            if request.phase == "ready" and rng.random() < 0.05:
                machine.scheduler.hold(request, machine.now)
            elif request.phase == "held" and rng.random() < 0.5:
                machine.scheduler.add(request, machine.now)
            if len(request.tokens) - request.prompt_tokens >= 40:
                machine.end(request)
        machine.slice(rng.randint(1, 6))
    for request in requests.values():
        alone = FakeEngine(EngineSettings(path="fake:end=0", seats=1))
        tokens = np.array(request.tokens[: request.prompt_tokens], np.int32)
        for expected in request.generated:
            got = int(alone.decode([Row(0, alone.length(0), tokens, True)])[0].argmax())
            assert got == expected
            tokens = np.array([got], np.int32)
    for request in list(machine.living.values()):
        machine.end(request)
    machine.context.close()  # the caches
    assert machine.arena.used_bytes == 0


def _spy(looked: list[int], key: Callable[[policy.Job], tuple[float, ...]]) -> policy.Key:
    """The key of a policy; counts its calls."""

    def counted(job: policy.Job, now: float) -> tuple[float, ...]:
        looked.append(1)
        return key(job)

    return counted


def test_work_per_slice_does_not_grow_with_requests_that_cannot_run() -> None:
    machine = Machine("rr", seats=2)
    looked: list[int] = []
    spy = policy.Policy("spy", "", _spy(looked, lambda j: (0, j.turn)))
    machine.settings.policy = spy
    machine.add(make_request(1))
    for number in range(2, 500):
        machine.scheduler.hold(machine.add(make_request(number)), 0.0)
    machine.slice()
    assert len(looked) < 10


def test_work_per_arrival_does_not_grow_with_equals_that_wait() -> None:
    machine = Machine("fifo", seats=2)
    looked: list[int] = []
    for number in range(1, 500):
        machine.add(make_request(number))
    assert machine.scheduler.next_slice(0.0)
    spy = policy.Policy("spy", "", _spy(looked, lambda j: (j.rank, j.turn)))
    machine.settings.policy = spy
    assert machine.scheduler.should_yield(0.0) is None and not looked
    machine.add(make_request(500, rank=0))
    assert machine.scheduler.should_yield(0.0) == 1 and looked


def test_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(InvalidArgument, match="did you mean 'fifo'"):
        policy.find("fifa")


def test_transitions_that_are_not_in_the_table_change_nothing() -> None:
    request = make_request(1)
    with pytest.raises(IllegalTransition):
        request.move("running", 0.0)
    assert request.phase == "preparing"
    for state in PHASES:
        with pytest.raises(IllegalTransition):
            step(PHASES, "request", "done", state)
    with pytest.raises(IllegalTransition):
        step(LIVES, "process", "dead", "alive")
