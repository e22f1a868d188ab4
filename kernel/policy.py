"""Scheduling policies: pure functions that say who comes first.

A policy gives each request that could run a key; the scheduler runs the lowest keys, as many as
share a batch. It sees numbers only, so the same code runs in the kernel and in a simulator.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from typing import NamedTuple, Protocol, TypeVar

from aios.syscalls.errors import InvalidArgument

RANKS = {"interactive": 0, "normal": 1, "batch": 2}
"""Classes, most urgent first. A request of a lower rank number preempts at the next token."""


class Job(Protocol):
    """What a policy may look at."""

    @property
    def rank(self) -> int:
        """From RANKS; lower runs first."""

    @property
    def arrival(self) -> int:
        """Order in which it was received."""

    @property
    def turn(self) -> int:
        """Its place in the round; a new one at the tail when it has used its quantum."""


J = TypeVar("J", bound=Job)
Key = Callable[[Job], tuple[int, int]]


class Policy(NamedTuple):
    """A name, what it promises, and the order it puts requests in."""

    name: str
    promise: str
    key: Key


POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("fifo", "first come, first served, to completion", lambda j: (j.rank, j.arrival)),
        Policy("rr", "round robin: a quantum each, in turn", lambda j: (j.rank, j.turn)),
    )
}


def find(name: str) -> Policy:
    """The policy of this name. Raises InvalidArgument naming the nearest one."""
    policy = POLICIES.get(name)
    if policy:
        return policy
    near = difflib.get_close_matches(name, POLICIES, n=1, cutoff=0.4)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise InvalidArgument(
        f"unknown policy {name!r}{meant}", f"policies: {', '.join(sorted(POLICIES))}"
    )


def pick(policy: Policy, jobs: Iterable[J], width: int) -> Sequence[J]:
    """The running set of the next slice, most urgent first."""
    return nsmallest(width, jobs, key=policy.key)


def quantum_steps(quantum_tokens: int, nice: int) -> int:
    """A request's share of a round: the quantum, a quarter more for each step of niceness less."""
    return max(1, round(quantum_tokens * 1.25**-nice))
