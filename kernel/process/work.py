"""What the models do for processes, as this package sees it; ``Models`` is above it."""

from __future__ import annotations

from typing import Protocol

from aios.kernel.scheduler.request import Request
from aios.syscalls.errors import AiosError


class Work(Protocol):
    """The requests of processes, whichever model works on each."""

    @property
    def quantum_tokens(self) -> int:
        """The longest quantum of a model; 1 without models."""

    def cancel(self, request: Request, error: AiosError) -> None:
        """End a request with an error."""

    def hold(self, request: Request) -> None:
        """Stop working on a request until ``unhold``."""

    def unhold(self, request: Request) -> None:
        """Work on a request again."""

    def reconsider(self) -> None:
        """A weight, class or quota has changed."""
