"""Scheduling policies: pure functions that decide which request comes first.

A policy gives each runnable request a key; the scheduler runs those with the lowest keys, as many
as fit a batch. It sees numbers only, so the same code runs in the kernel and in a simulator.

Every key begins with the request's class. A request that has waited AGING_S while there were
requests of higher classes counts as one class more urgent, so none starves. Among equals waiting
does not count, or it would replace the policy in long queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from math import log
from typing import NamedTuple, Protocol, TypeVar

from aios.syscalls.errors import InvalidArgument
from aios.syscalls.suggest import did_you_mean

RANKS = {"interactive": 0, "normal": 1, "batch": 2}
"""Classes, most urgent first. A request of a lower rank number preempts at the next token."""
AGING_S = 30.0
NICE_AGING_S = 2.0
"""``priority``: waiting time that is worth one step of niceness."""
FIRST_LEVEL, LEVEL_GROWTH = 56.0, 8.0
"""``mlfq``: work of the first level, in prompt tokens (a short question and a dozen tokens of
answer), and the growth from level to level. A request's level is that of the work done for it, or
of the work left at most, if that is less: a small limit on the reply is a promise that is kept.
Within a level the least left goes first, then the first come: equals that take turns would all end
late."""


class Job(Protocol):
    """A request, as a policy sees it. Work is counted in prompt tokens."""

    @property
    def rank(self) -> int:
        """From RANKS; lower runs first."""

    @property
    def nice(self) -> int:
        """-20 to 19; lower runs first."""

    @property
    def arrival(self) -> int:
        """Its number in the order of arrival."""

    @property
    def turn(self) -> int:
        """Its place in the round; the last place once it has used its quantum."""

    @property
    def received_s(self) -> float:
        """Time at which it was received."""

    @property
    def outranked(self) -> bool:
        """There are requests of a higher class."""

    @property
    def idle_since_s(self) -> float:
        """Time since which it could have run and did not."""

    @property
    def share(self) -> float:
        """Its account's use of the model over its weight, up to its own turn."""

    @property
    def service(self) -> float:
        """Work done for it, plus the prompt work that must be done first."""

    @property
    def left(self) -> float:
        """Work left, by what the caller expects."""

    @property
    def most_left(self) -> float:
        """Work left at most, by the limit on the reply."""


J = TypeVar("J", bound=Job)
Key = Callable[[Job, float], tuple[float, ...]]


class Policy(NamedTuple):
    """A name, a promise, and the key that orders requests at a given time."""

    name: str
    promise: str
    key: Key
    turns: bool = False
    """Goes by turns: a slice ends when a request's quantum does."""
    shares: bool = False
    """Uses ``share``."""
    preempts: bool = False
    """A newcomer may end the slice of a request of its own class, not only of a lower one."""


def _urgency(job: Job, now: float) -> int:
    return job.rank - (int(max(0.0, now - job.idle_since_s) / AGING_S) if job.outranked else 0)


def _fifo(job: Job, now: float) -> tuple[float, ...]:
    aged = int(max(0.0, now - job.received_s) / AGING_S) if job.outranked else 0
    return job.rank - aged, job.arrival


def _rr(job: Job, now: float) -> tuple[float, ...]:
    return _urgency(job, now), job.turn


def _priority(job: Job, now: float) -> tuple[float, ...]:
    waited = max(0.0, now - job.idle_since_s)
    return _urgency(job, now), job.nice - int(waited / NICE_AGING_S), job.turn


def _fair(job: Job, now: float) -> tuple[float, ...]:
    return _urgency(job, now), job.share, job.turn


def _mlfq(job: Job, now: float) -> tuple[float, ...]:
    size = min(job.service, job.most_left) / FIRST_LEVEL
    level = 0 if size < 1 else 1 + int(log(size, LEVEL_GROWTH))
    return _urgency(job, now), level, job.most_left, job.arrival


def _srtf(job: Job, now: float) -> tuple[float, ...]:
    return _urgency(job, now), job.left, job.arrival


POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("fifo", "first come, first served, to completion", _fifo),
        Policy("rr", "round robin: a quantum each, in turn", _rr, turns=True),
        Policy("priority", "lower nice values first, the longest waiting among equals", _priority,
               turns=True),
        Policy("fair", "equal shares, by weight, for programs that want the model", _fair,
               shares=True),
        Policy("mlfq", "what has used little, or has little left at most, comes first", _mlfq,
               turns=True, preempts=True),
        Policy("srtf", "what is nearest to its end comes first, as far as is known", _srtf,
               preempts=True),
    )
}  # fmt: skip


def find(name: str) -> Policy:
    """Return the policy of this name. Raises InvalidArgument, which names the nearest one."""
    policy = POLICIES.get(name)
    if policy:
        return policy
    raise InvalidArgument(
        f"unknown policy {name!r}{did_you_mean(name, POLICIES)}",
        f"policies: {', '.join(sorted(POLICIES))}",
    )


def pick(policy: Policy, jobs: Iterable[J], width: int, now: float) -> Sequence[J]:
    """Return the most urgent jobs, at most ``width``, in order."""
    return nsmallest(width, jobs, key=lambda job: policy.key(job, now))


def niceness(nice: int) -> float:
    """Return the weight of a nice value: a quarter more for each step down."""
    return float(1.25**-nice)


def quantum_steps(quantum_tokens: int, nice: int) -> int:
    """Return the steps that a request has in a round: the quantum times its niceness's weight."""
    return max(1, round(quantum_tokens * niceness(nice)))
