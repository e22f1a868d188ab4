"""The budget of one ``llm.chat``: what it takes from its process and from all who started that.

Tokens are taken before they are generated, so calls at the same time cannot exceed a budget
together; what was not generated goes back when the call ends, or before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from aios.syscalls.errors import BudgetExceeded


class Payer(Protocol):
    """What a budget needs of a process. ``max_tokens`` None: it has no limit."""

    pid: int
    name: str
    max_tokens: int | None
    budget_used: int


class Budget:
    """Taken for one call. ``lineage``: the process that pays, and those above it."""

    def __init__(self, lineage: Iterable[Payer]) -> None:
        self._lineage = list(lineage)
        self.taken = 0

    def take(self, wanted: int) -> int:
        """Take as many tokens as all of them have left, and not more than wanted."""
        found = wanted
        for member in self._lineage:
            if member.max_tokens is not None:
                found = min(found, member.max_tokens - member.budget_used)
        self._book(max(0, found))
        return max(0, found)

    def give_back(self, tokens: int) -> None:
        """So many of those taken were not generated."""
        self._book(-tokens)

    def exceeded(self) -> BudgetExceeded:
        """The error that names whose budget leaves nothing."""
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
