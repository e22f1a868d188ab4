"""Shares of the model: what each account has used of it, and what it may reserve.

An account's clock is its virtual time: the work done for it over its weight. Policies that share
(``fair``) let the one whose clock is behind go first. An account that did not want the model for a
while comes back at the floor, where those who did are: it has no claim to what it did not use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter

from . import policy
from .account import Account
from .request import Request

_MOST_CLOCKS = 4096


class Shares:
    """The clocks of all accounts that have used one model."""

    def __init__(self) -> None:
        self._clocks: dict[int, float] = {}
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._clocks)

    def wake(self, account: Account, ready: Collection[Request]) -> None:
        """It wants the model; ``ready`` are those who do already."""
        self._clocks[account.id] = max(self._clocks.get(account.id, 0.0), self._floor)
        if len(self._clocks) > _MOST_CLOCKS:
            live = {request.account.id for request in ready} | {account.id}
            self._clocks = {
                number: clock for number, clock in self._clocks.items()
                if number in live or clock > self._floor
            }  # fmt: skip

    def charge(self, request: Request, work: float) -> None:
        """So much has been done for it, in prompt tokens."""
        self._clocks[request.account.id] = self._clock(request) + work / _weight(request)

    def raise_floor(self, ready: Collection[Request]) -> None:
        """To the clock that is most behind of those who want the model."""
        if ready:
            behind = min(self._clocks.get(r.account.id, 0.0) for r in ready)
            self._floor = max(self._floor, behind)

    def project(self, jobs: Iterable[Request], turn_work: float) -> None:
        """Set each request's ``share``: what its account will have used when it is its turn."""
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
    """Whether its account's quota of cells has room for it; alone it always has. ``reserved``:
    cells that others of the account take in the same slice."""
    account = request.account
    held = account.cells + reserved
    if account.quota_cells is None or request.cells or not held:
        return True
    return held + cells(request) <= account.quota_cells


def cells(request: Request) -> int:
    """KV cells that a request may come to need."""
    wanted = request.prompt_tokens + request.params.max_tokens
    return min(wanted, request.account.quota_cells or wanted)


def _weight(request: Request) -> float:
    return request.account.weight * policy.niceness(request.nice)
