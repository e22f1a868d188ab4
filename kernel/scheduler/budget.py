"""The budget of one ``llm.chat``: tokens taken from its process and from that one's ancestors.

Tokens are taken before they are generated, so calls at the same time cannot exceed a budget
together; what was not generated is given back when the call ends, or before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from aios.syscalls.errors import BudgetExceeded


class Payer(Protocol):
    """A process, as a budget sees it. ``max_tokens`` None: unlimited."""

    pid: int
    name: str
    max_tokens: int | None
    budget_used: int


class Budget:
    """Tokens taken for one call. ``lineage``: the process that pays, and its ancestors."""

    def __init__(self, lineage: Iterable[Payer]) -> None:
        self._lineage = list(lineage)
        self.taken = 0

    def take(self, wanted: int) -> int:
        """Take what all of them have left, at most ``wanted``; return how many tokens."""
        found = wanted
        for member in self._lineage:
            if member.max_tokens is not None:
                found = min(found, member.max_tokens - member.budget_used)
        self._book(max(0, found))
        return max(0, found)

    def give_back(self, tokens: int) -> None:
        """Give back tokens that were not generated."""
        self._book(-tokens)

    def exceeded(self) -> BudgetExceeded:
        """Return the error that names the process whose budget is used up."""
        member = next(m for m in self._lineage
                      if m.max_tokens is not None and m.budget_used >= m.max_tokens)  # fmt: skip
        return BudgetExceeded(
            f"pid {member.pid} ({member.name}) and what it started have used or reserved "
            f"all of its {member.max_tokens:,} tokens",
            "start it with a larger --max-tokens",
        )

    def _book(self, tokens: int) -> None:
        self.taken += tokens
        for member in self._lineage:
            member.budget_used += tokens
