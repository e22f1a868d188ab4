"""The models' work for processes as this package sees it; ``Models`` is in a higher package."""

from __future__ import annotations

from typing import Protocol

from aios.kernel.scheduler.request import Request
from aios.syscalls.errors import AiosError


class Work(Protocol):
    """The requests of processes on all models."""

    @property
    def quantum_tokens(self) -> int:
        """The longest quantum of any model, in tokens; 1 without models."""

    def cancel(self, request: Request, error: AiosError) -> None:
        """End a request with an error."""

    def hold(self, request: Request) -> None:
        """Stop working on a request until ``unhold``."""

    def unhold(self, request: Request) -> None:
        """Resume work on a request."""

    def reconsider(self) -> None:
        """Schedule again after a change of weight, class or quota."""
