"""The promise of each policy, quotas and aging, on a played machine and on real cores."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from aios.bench.rig.simcore import PREFILL_TOKEN_S, Job, Simulation
from aios.hw.engine.sampling import SamplingParams
from aios.kernel.scheduler import policy
from aios.kernel.scheduler.account import Account
from aios.kernel.scheduler.fair_share import cells, fits
from aios.kernel.scheduler.pace import LONE_CHUNK_FACTOR
from aios.kernel.scheduler.request import Request
from tests.kernel.rig import open_rig

from .test_policy import Machine, make_request


def _shares(machine: Machine, slices: int) -> Counter[int]:
    """Tokens by account."""
    owner = {number: request.account.id for number, request in machine.living.items()}
    for _ in range(slices):
        machine.slice()
    return Counter(owner[number] for number in machine.served)


@pytest.mark.parametrize("weights", [(1.0, 2.0, 4.0), (1.0, 1.0, 1.0), (0.5, 8.0, 3.0)])
def test_fair_serves_by_weight_within_five_percent(weights: tuple[float, ...]) -> None:
    machine = Machine("fair", seats=4, width=1, quantum=4)
    for number, weight in enumerate(weights, 1):
        machine.add(make_request(number)).account.weight = weight
    shares = _shares(machine, 700)
    for number, weight in enumerate(weights, 1):
        expected = sum(shares.values()) * weight / sum(weights)
        assert abs(shares[number] / expected - 1) < 0.05, shares


@pytest.mark.parametrize("width", [1, 4])
def test_parallel_requests_do_not_buy_a_larger_share(width: int) -> None:
    machine = Machine("fair", seats=8, width=width, quantum=4, arena=1 << 22)
    greedy = Account(1)
    for number in range(1, 16):
        request = make_request(number)
        if number <= 8:
            request.account = greedy
        machine.add(request)
    shares = list(_shares(machine, 600).values())
    assert len(shares) == 8
    jain = sum(shares) ** 2 / (8 * sum(s * s for s in shares))
    assert jain > 0.95, shares


def test_a_late_account_has_neither_claims_nor_debts_from_the_past() -> None:
    machine = Machine("fair", seats=4, width=1, quantum=4)
    machine.add(make_request(1))
    for _ in range(50):
        machine.slice()
    machine.served.clear()
    machine.add(make_request(2))
    shares = _shares(machine, 40)
    assert abs(shares[1] - shares[2]) <= 8, shares


def test_mlfq_runs_short_requests_first_and_long_prompts_join_lower() -> None:
    machine = Machine("mlfq", seats=4, width=1, quantum=4)
    machine.add(make_request(1))
    for _ in range(30):
        machine.slice()
    machine.add(make_request(2, prompt=400))
    machine.add(make_request(3))
    machine.served.clear()
    machine.slice()
    assert set(machine.served) == {3}


def test_mlfq_puts_a_small_limit_on_the_reply_first() -> None:
    machine = Machine("mlfq", seats=4, width=1, quantum=4)
    machine.add(make_request(1))
    small = machine.add(make_request(2))
    small.params = SamplingParams(max_tokens=8, seed=2)
    boast = machine.add(make_request(3))
    boast.expected_tokens = 1  # a wish is not a limit
    machine.slice()
    assert set(machine.served) == {2}
    while small.phase != "done" and len(machine.served) < 8:
        machine.slice()
    assert set(machine.served) == {2}


def test_srtf_goes_by_the_expected_length() -> None:
    machine = Machine("srtf", seats=4, width=1, quantum=4)
    for number, expected in ((1, 50), (2, 5), (3, 20)):
        machine.add(make_request(number)).expected_tokens = expected
    machine.slice()
    assert set(machine.served) == {2}


def test_priority_goes_by_niceness_and_waiting_counts() -> None:
    machine = Machine("priority", seats=4, width=1, quantum=4)
    machine.add(make_request(1, nice=-5))
    machine.add(make_request(2, nice=5))
    shares = _shares(machine, 60)
    assert shares[1] > shares[2] > 0


@pytest.mark.parametrize("name", sorted(policy.POLICIES))
def test_no_request_starves(name: str) -> None:
    """One request of the lowest class among ever more of the highest."""
    machine = Machine(name, seats=2, width=1, quantum=4)
    machine.add(make_request(1, rank=2, nice=19))
    for number in range(2, 60):
        last = make_request(number, rank=0)
        last.received_s = machine.now
        machine.add(last)
        machine.slice()
        if 1 in machine.served:
            return
        machine.end(last)
    raise AssertionError(f"{name}: it never ran in {machine.now} s")


def test_work_per_slice_does_not_grow_with_idle_accounts_and_they_are_forgotten() -> None:
    machine = Machine("fair", seats=2, width=1, quantum=1)
    machine.add(make_request(1))
    for number in range(2, 12_000):
        request = machine.add(make_request(number))
        machine.end(request)
        if number % 1000 == 0:
            machine.slice()
    assert len(machine.scheduler.shares) < 5000


# ---------------------------------------------------------------------------- quotas


@pytest.mark.parametrize("name", sorted(policy.POLICIES))
@pytest.mark.parametrize("seed", range(2))
def test_a_quota_of_cells_makes_requests_wait_and_never_hangs(
    tmp_path: Path, name: str, seed: int
) -> None:
    """A program's quota admits one of its many parallel requests; other programs run as well."""
    rng = random.Random(seed)
    with open_rig(tmp_path, seats=2, quantum=2, name=name) as rig:
        tight = Account(1, quota_cells=64)
        asked = [rig.ask("x" * rng.randint(5, 20), tokens=rng.randint(3, 30), account=tight)
                 for _ in range(9)]  # fmt: skip
        others = [rig.ask("y" * 10, tokens=10) for _ in range(3)]
        held = 0
        while rig.step():
            rig.check()
            held = max(held, sum(r.length for r in asked if r.phase != "done"))
        assert held <= 64
        assert all(rig.reply(r).tokens == rig.alone(r) for r in asked + others)
        assert tight.cells == 0


def test_a_quota_of_tokens_is_a_rate(tmp_path: Path) -> None:
    account = Account(1, quota_tokens=60)
    assert account.may_run_s(0.0) == 0.0
    account.charge(90, 0.0)
    due_s = account.may_run_s(0.0)
    assert 30.0 <= due_s <= 32.0
    assert account.may_run_s(due_s) == due_s
    account.charge(1, due_s)
    assert account.may_run_s(1e6) == 1e6
    with open_rig(tmp_path, seats=1, quantum=2) as rig:
        slow = rig.ask("x", tokens=20, account=Account(1, quota_tokens=900))
        slow.account.charge(905, time.monotonic())
        quick = rig.ask("y", tokens=20)
        rig.run()
        assert rig.reply(quick) and slow.id not in rig.outcomes
        rig.wait(lambda: slow.id in rig.outcomes)
        assert rig.reply(slow).tokens == rig.alone(slow)


@pytest.mark.parametrize("model", ["fake:end=0", "fake:end=0,words=2,drafts=15"])
@pytest.mark.parametrize("grammar", [None, f'root ::= "{"a" * 60}" [bc] "{"d" * 60}" [bc]'])
@pytest.mark.parametrize("quantum", [1, 4])
def test_a_token_is_charged_once_however_it_was_computed(
    tmp_path: Path, model: str, grammar: str | None, quantum: int
) -> None:
    """A slice may end before the tokens that a grammar forced are in the seat."""
    with open_rig(tmp_path, model, seats=1, quantum=quantum) as rig:
        asked = rig.ask("x" * 40, tokens=100, grammar=grammar)
        rig.ask("y", tokens=100)
        charged: list[int] = []
        asked.account.charge = lambda tokens, now: charged.append(tokens)  # type: ignore[method-assign]
        rig.run()
        usage = rig.reply(asked).usage
        assert sum(charged) == usage.prompt_tokens + usage.completion_tokens == asked.done_work


def test_a_paused_request_loses_its_seat_first() -> None:
    machine = Machine("rr", seats=2, width=1, quantum=2)
    first, second = machine.add(make_request(1)), machine.add(make_request(2))
    machine.slice()
    machine.slice()
    machine.scheduler.hold(second, machine.now)
    third = machine.add(make_request(3))
    machine.slice()
    machine.slice()
    assert second.seat is None and first.seat is not None and third.seat is not None
    machine.scheduler.add(second, machine.now)
    for _ in range(4):
        machine.slice()
    assert second.parks == 1 and second.recomputes == 0


@pytest.mark.parametrize("prompt", [45, 1500])
def test_a_visitor_waits_for_one_step_of_a_full_batch_at_most(prompt: int) -> None:
    """It comes at any time, also while the batch computes its prompts in large chunks."""
    for seed in range(20):
        draw = random.Random(seed)
        batch = [Job(0.0, number, prompt, 192, "batch") for number in range(8)]
        visits = [Job(draw.uniform(0.0, 5.0), 8 + n, 40, 6, "interactive") for n in range(4)]
        simulation = Simulation("fair", seats=8)
        outcome = simulation.run([*batch, *visits])
        chunk = simulation.scheduler.pace.chunk_tokens * LONE_CHUNK_FACTOR
        simulation.close()
        waits = [outcome.wait_s[number] for number in range(9, 13)]
        assert max(waits) < chunk * PREFILL_TOKEN_S + 0.05, (seed, waits)


def _expected(machine: Machine) -> list[int]:
    """Work out from the policy's promise, in the simplest way, who runs next."""
    now, chosen, width = machine.now, machine.settings.policy, machine.settings.width
    jobs = [
        r for r in machine.living.values()
        if r.phase == "ready" and r.account.may_run_s(now) <= now and fits(r)
    ]  # fmt: skip
    keys = {}
    for job in jobs:
        before = [r for r in jobs if r.account is job.account and r.turn < job.turn]
        weight = job.account.weight * 1.25**-job.nice
        clock = machine.scheduler.shares._clocks[job.account.id]
        share = clock + len(before) * machine.scheduler.pace.quantum_tokens / weight
        waited = now - job.phase_since_s
        aged = job.rank > min(r.rank for r in jobs)
        urgency = job.rank - (int(waited / policy.AGING_S) if aged else 0)
        keys[job.id] = {
            "rr": (urgency, job.turn),
            "priority": (urgency, job.nice - int(waited / policy.NICE_AGING_S), job.turn),
            "fair": (urgency, share, job.turn),
        }[chosen.name]
    rows: list[Request] = []
    for job in sorted(jobs, key=lambda r: keys[r.id])[: 2 * width]:
        reserved = sum(cells(r) for r in rows if r.account is job.account and not r.cells)
        if fits(job, reserved) and len(rows) < width:
            rows.append(job)
    return [row.id for row in rows]


@pytest.mark.parametrize("seed", range(8))
def test_the_choice_is_that_of_a_naive_reference(seed: int) -> None:
    draw = random.Random(seed)
    machine = Machine("fair", seats=6, width=3, quantum=3, arena=1 << 22)
    accounts = [Account(n, draw.choice((0.5, 1.0, 4.0))) for n in range(6)]
    accounts[0].quota_cells, accounts[1].quota_tokens = 1500, 600
    numbers = iter(range(1, 1000))
    held: list[Request] = []
    for _ in range(120):
        machine.settings.policy = policy.find(draw.choice(("fair", "fair", "rr", "priority")))
        machine.settings.width = draw.randint(1, 4)
        living = [r for r in machine.living.values() if r.phase == "ready"]
        match draw.randrange(8):
            case 0 | 1 | 2 if len(living) < 25:
                rank, nice = draw.choice((0, 1, 1, 2)), draw.choice((0, 0, -3, 5))
                request = make_request(next(numbers), rank=rank, nice=nice)
                request.account = draw.choice(accounts)
                machine.add(request)
            case 3 if living:
                machine.end(draw.choice(living))
            case 4 if living:
                held.append(draw.choice(living))
                machine.scheduler.hold(held[-1], machine.now)
            case 5 if held:
                machine.scheduler.add(held.pop(), machine.now)
            case 6 if living:
                draw.choice(living).nice = draw.randint(-20, 19)
            case 7:
                machine.now += draw.choice((0.5, 5.0, 40.0))
        expected = _expected(machine)
        before = len(machine.served)
        machine.slice(most_steps=draw.randint(1, 4))
        assert list(dict.fromkeys(machine.served[before:])) == expected
