"""The asker: the caller of a system call, those for whom it acts, and the request's body."""

from __future__ import annotations

from typing import Any, NamedTuple


class Asker(NamedTuple):
    """A caller as the access manager sees it."""

    pid: int
    behalf: tuple[int, ...] = ()
    """Pids on whose behalf the caller acts."""
    body: Any = None
    """The request's body, to which an approval is bound."""
    used: list[Any] | None = None
    """Approvals that this call has used; the access manager's own objects."""
