"""The chooser: which requests run in the next slice, and for how many steps.

The policy's order decides, but for three cases: an account beyond its quota waits; a request waits
while another in the same slice computes a prefix that both share; and one that cores keep dying of
runs alone when its turn comes, so that it harms no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from aios.kernel.context.manager import ContextManager
from aios.kernel.context.prefix import common
from aios.kernel.context.sequence import Sequence

from . import policy
from .account import Account
from .fair_share import Shares, cells, fits
from .pace import Pace, Settings
from .request import Request

LONELY_QUANTA = 4
"""Quanta in a slice that all runnable requests are in."""
SHARED_TOKENS = 64
"""Minimum shared prefix, in tokens, worth waiting for."""
SUSPECT_DEATHS = 2
"""Deaths of cores working on a request, since its last token, after which it runs alone."""


@dataclass
class Choice:
    """The requests of a slice."""

    rows: list[Request] = field(default_factory=list)
    share_after: int | None = None
    """Prompt tokens after which a request that was left out can copy what a row has computed."""


class Chooser:
    """Chooses among the ``ready`` requests, a collection that the scheduler keeps."""

    def __init__(
        self, settings: Settings, pace: Pace, shares: Shares, ready: Collection[Request]
    ) -> None:
        self._settings, self._pace, self._shares, self._ready = settings, pace, shares, ready
        self.context: ContextManager | None = None

    def choose(self, now: float) -> Choice:
        """Return the requests that are to run now."""
        jobs = self._runnable(now)
        choice = Choice()
        reserved: Counter[Account] = Counter()
        filling = [
            r for r in jobs
            if r.seat is not None and r.length < r.prompt_tokens and not _suspect(r)
        ]  # fmt: skip
        width = self._pace.width
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

    def steps(self, choice: Choice) -> int:
        """Return the number of steps of a slice with this choice."""
        if not choice.rows:
            return 0
        if len(choice.rows) == len(self._ready):
            return self._pace.quantum_tokens * LONELY_QUANTA
        steps = self._pace.quantum_tokens
        if self._settings.policy.turns:
            steps = min(self.steps_left(request) for request in choice.rows)
        if choice.share_after:
            steps = min(steps, -(-choice.share_after // self._pace.chunk_tokens))
        return max(1, steps)

    def steps_left(self, request: Request) -> int:
        """Return what is left of a request's quantum in this round."""
        return policy.quantum_steps(self._pace.quantum_tokens, request.nice) - request.used_steps

    def others_first(self, running: Collection[Request], now: float) -> bool:
        """Return True if the policy would now run a request that is not among ``running``."""
        chosen = self._settings.policy
        full = len(running) >= self._pace.width
        if full and not chosen.preempts and len({request.rank for request in self._ready}) == 1:
            return False  # newcomers of the same class wait: spare the choice at each arrival
        missing = [r for r in self.choose(now).rows if r.phase != "running"]
        if not missing:
            return False
        if chosen.preempts or not full:
            return True
        first = min(chosen.key(request, now)[0] for request in missing)
        return any(chosen.key(request, now)[0] > first for request in running)

    def coldness(self, owner: Sequence, now: float) -> tuple[float, ...]:
        """Return the key by which owners lose their seats: the held first, then the least urgent
        first."""
        assert isinstance(owner, Request)
        return (owner.phase == "held", *self._settings.policy.key(owner, now))

    def _runnable(self, now: float) -> list[Request]:
        """Return the requests that their quotas let run, ready for the policy to look at.

        Quotas come first: requests that must wait for theirs would take places from the others.
        """
        jobs = [
            r for r in self._ready
            if not r.account.limited or (r.account.may_run_s(now) <= now and fits(r))
        ]  # fmt: skip
        highest = min((request.rank for request in jobs), default=0)
        for request in jobs:
            request.outranked = request.rank > highest
        if self._settings.policy.shares:
            self._shares.project(jobs, self._pace.quantum_tokens * self._pace.decode_cost)
        return jobs

    def _ahead(
        self, request: Request, others: Collection[Request], choice: Choice
    ) -> Request | None:
        """Return another request that is about to compute a long prefix which both share.

        It runs in place of this one, which then copies the result instead of computing it too.
        """
        assert self.context
        if request.seat is not None or request.image or not self.context.shares:
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
                known = self.context.shared(request)
            if both >= max(known, other.length) + SHARED_TOKENS:
                left = both - other.length
                choice.share_after = min(choice.share_after or left, left)
                return other
        return None


def _suspect(request: Request) -> bool:
    return request.core_deaths >= SUSPECT_DEATHS
