"""Scheduling policies: pure functions that say who comes first.

A policy gives each request that could run a key; the scheduler runs the lowest keys, as many as
share a batch. It sees numbers only, so the same code runs in the kernel and in a simulator.

Every key begins with the request's class. Aging: what has waited AGING_S while there were others
of higher classes counts as one class more urgent, so nothing starves. Among equals it does not
count, or long queues would be served by waiting and not by the policy.
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
"""``priority``: waiting so long is worth one step of niceness."""
FIRST_LEVEL, LEVEL_GROWTH = 56.0, 8.0
"""``mlfq``: work of the first level, in prompt tokens (a short question and a dozen tokens of
answer), and how much larger each further level is. Levels are few, and within one the first to
come is finished first: equals that take turns all end at the end."""


class Job(Protocol):
    """What a policy may look at. Work is counted in prompt tokens."""

    @property
    def rank(self) -> int:
        """From RANKS; lower runs first."""

    @property
    def nice(self) -> int:
        """-20 to 19; lower runs first."""

    @property
    def arrival(self) -> int:
        """Order in which it was received."""

    @property
    def turn(self) -> int:
        """Its place in the round; a new one at the tail when it has used its quantum."""

    @property
    def received_s(self) -> float:
        """When it was received."""

    @property
    def outranked(self) -> bool:
        """There are others of a higher class."""

    @property
    def idle_since_s(self) -> float:
        """Since when it could have run and did not."""

    @property
    def share(self) -> float:
        """Its account's use of the model over its weight, up to its own turn."""

    @property
    def service(self) -> float:
        """Work done for it, and the prompt work that must be done first."""

    @property
    def left(self) -> float:
        """Work that is left, as far as anyone has said."""


J = TypeVar("J", bound=Job)
Key = Callable[[Job, float], tuple[float, ...]]


class Policy(NamedTuple):
    """A name, what it promises, and the order it puts requests in at a time."""

    name: str
    promise: str
    key: Key
    turns: bool = False
    """Goes by turns: a slice ends when somebody's quantum does."""
    shares: bool = False
    """Looks at ``share``."""
    preempts: bool = False
    """A newcomer may end the slice of one of its own class, not only of a lower one."""


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
    done = job.service / FIRST_LEVEL
    return _urgency(job, now), 0 if done < 1 else 1 + int(log(done, LEVEL_GROWTH)), job.arrival


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
        Policy("mlfq", "what has used little comes first; long prompts join lower", _mlfq,
               turns=True, preempts=True),
        Policy("srtf", "what is nearest to its end comes first, as far as is known", _srtf,
               preempts=True),
    )
}  # fmt: skip


def find(name: str) -> Policy:
    """The policy of this name. Raises InvalidArgument naming the nearest one."""
    policy = POLICIES.get(name)
    if policy:
        return policy
    raise InvalidArgument(
        f"unknown policy {name!r}{did_you_mean(name, POLICIES)}",
        f"policies: {', '.join(sorted(POLICIES))}",
    )


def pick(policy: Policy, jobs: Iterable[J], width: int, now: float) -> Sequence[J]:
    """The most urgent jobs, in order."""
    return nsmallest(width, jobs, key=lambda job: policy.key(job, now))


def niceness(nice: int) -> float:
    """What a nice value is worth: a quarter more for each step less."""
    return float(1.25**-nice)


def quantum_steps(quantum_tokens: int, nice: int) -> int:
    """A request's share of a round: the quantum, a quarter more for each step of niceness less."""
    return max(1, round(quantum_tokens * niceness(nice)))
