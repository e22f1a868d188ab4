"""Accounts: what a program may use of the model, and the weight of its share.

A program and everything it starts share one account, so an agent gains nothing by splitting its
work among calls or children.
"""

from __future__ import annotations

from dataclasses import dataclass

_MINUTE_S = 60.0


@dataclass(eq=False)
class Account:
    """One program. ``quota_tokens`` per minute, ``quota_cells`` of KV at once; None: unlimited.

    A quota makes requests wait; it never fails one that could run later.
    """

    id: int
    weight: float = 1.0
    quota_tokens: int | None = None
    quota_cells: int | None = None
    cells: int = 0
    """KV cells reserved by its requests that have started."""
    _tokens: float = 0.0
    """Tokens in the bucket, which holds a minute's worth; negative after a long slice."""
    _filled_s: float | None = None

    @property
    def limited(self) -> bool:
        """It has a quota."""
        return self.quota_tokens is not None or self.quota_cells is not None

    def may_run_s(self, now: float) -> float:
        """Return when its token quota lets it run: ``now``, or later."""
        if self.quota_tokens is None:
            return now
        self._fill(now)
        if self._tokens > 0:
            return now
        return now + (1.0 - self._tokens) * _MINUTE_S / self.quota_tokens

    def charge(self, tokens: int, now: float) -> None:
        """Charge tokens that were computed, prompt and generated."""
        if self.quota_tokens is not None:
            self._fill(now)
            self._tokens -= tokens

    def _fill(self, now: float) -> None:
        assert self.quota_tokens is not None
        if self._filled_s is None:
            self._tokens, self._filled_s = float(self.quota_tokens), now
        rate = self.quota_tokens / _MINUTE_S
        self._tokens = min(self.quota_tokens, self._tokens + (now - self._filled_s) * rate)
        self._filled_s = now
