"""Shares of the model: what each account has used, and the KV cells that it may reserve.

An account's clock is its virtual time: the work done for it over its weight. Policies that share
(``fair``) run the account whose clock is behind. An account that did not want the model for a while
returns at the floor, where the others are: it has no claim to what it did not use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter

from . import policy
from .account import Account
from .request import Request

_MAX_CLOCKS = 4096
"""Number of clocks from which on those of idle accounts are forgotten."""


class Shares:
    """The clocks of all accounts that have used one model."""

    def __init__(self) -> None:
        self._clocks: dict[int, float] = {}
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._clocks)

    def wake(self, account: Account, ready: Collection[Request]) -> None:
        """Note that an account wants the model; ``ready``: the requests that already do."""
        self._clocks[account.id] = max(self._clocks.get(account.id, 0.0), self._floor)
        if len(self._clocks) > _MAX_CLOCKS:
            live = {request.account.id for request in ready} | {account.id}
            self._clocks = {
                number: clock for number, clock in self._clocks.items()
                if number in live or clock > self._floor
            }  # fmt: skip

    def charge(self, request: Request, work: float) -> None:
        """Charge work, in prompt tokens, to a request's account."""
        self._clocks[request.account.id] = self._clock(request) + work / _weight(request)

    def raise_floor(self, ready: Collection[Request]) -> None:
        """Raise the floor to the slowest clock among the accounts that want the model."""
        if ready:
            behind = min(self._clocks.get(r.account.id, 0.0) for r in ready)
            self._floor = max(self._floor, behind)

    def project(self, jobs: Iterable[Request], turn_work: float) -> None:
        """Set each request's ``share``: what its account will have used at the request's turn."""
        clocks, floor = self._clocks, self._floor
        turns: dict[Account, int] = {}
        for request in sorted(jobs, key=attrgetter("turn")):
            account = request.account
            request.share = clocks.get(account.id, floor)
            ahead = turns.get(account, 0)
            if ahead:
                request.share += ahead * turn_work / _weight(request)
            turns[account] = ahead + 1

    def _clock(self, request: Request) -> float:
        return self._clocks.get(request.account.id, self._floor)


def fits(request: Request, reserved: int = 0) -> bool:
    """Return True if the account's quota of cells has room for the request, or if it is alone.
    ``reserved``: cells that the account's other requests take in the same slice."""
    account = request.account
    held = account.cells + reserved
    if account.quota_cells is None or request.cells or not held:
        return True
    return held + cells(request) <= account.quota_cells


def cells(request: Request) -> int:
    """Return the KV cells that a request may need."""
    wanted = request.prompt_tokens + request.params.max_tokens
    return min(wanted, request.account.quota_cells or wanted)


def _weight(request: Request) -> float:
    return request.account.weight * policy.niceness(request.nice)
