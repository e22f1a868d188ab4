"""Names of scopes, and who may use them.

An agent's own scopes are ``session`` and ``agent``. Another agent's scopes are never accessible,
whatever the caller was granted: agents share notes in ``shared:NAME``.
"""

from __future__ import annotations

from aios.kernel.access.manager import AccessManager
from aios.kernel.access.principals import OPERATOR
from aios.kernel.process.table import Process, ProcessTable
from aios.kernel.trap.asker import Asker
from aios.syscalls.errors import InvalidArgument, PermissionDenied
from aios.syscalls.types.common import Effect


class Scopes:
    """Resolves what callers name, with their rights."""

    def __init__(self, table: ProcessTable, access: AccessManager) -> None:
        self._table, self._access = table, access

    def allowed(self, asker: Asker, name: str, action: str, effect: Effect) -> str:
        """Return a scope's full name if the caller may do this to it. Raises AiosError."""
        full, asked = self._full(asker.pid, name)
        self._access.check(asker, "memory", action, asked, effect)
        return full

    def _full(self, caller_pid: int, name: str) -> tuple[str, str]:
        """Return a scope's full name, and its name in access rules."""
        kind, _, given = name.partition(":")
        if caller_pid == OPERATOR:
            if not given:
                raise InvalidArgument(
                    f"the operator has no {kind} of its own",
                    "name one in full: session:PID, agent:NAME or shared:NAME",
                )
            return name, name
        if kind == "shared":
            return name, name
        process = self._table.caller(caller_pid)
        own = session_of(process) if kind == "session" else f"agent:{process.name}"
        if given and name != own:
            raise PermissionDenied(
                f"{name} is another agent's; pid {caller_pid} is {process.name}",
                "share notes in a scope of its own: shared:NAME",
            )
        return own, kind

    def session_owner(self, scope: str) -> Process | None:
        """Return the agent of a session scope, None for other scopes. Raises InvalidArgument when
        the agent has ended."""
        if not scope.startswith("session:"):
            return None
        process = self._table.get(int(scope.partition(":")[2]))
        if process is None:
            raise InvalidArgument(f"{scope} has ended, and its notes with it", "see: aios ps")
        return process

    def visible(self, caller_pid: int, scope: str) -> bool:
        """Return False when a caller must not even learn that notes of this scope exist."""
        if caller_pid == OPERATOR or scope.startswith("shared:"):
            return True
        return scope in (self.own(caller_pid) or ())

    def own(self, caller_pid: int) -> tuple[str, str] | None:
        """Return the full names of the scopes that are a caller's alone; None if it is no agent."""
        process = self._table.get(caller_pid)
        return own_scopes(process) if process else None


def session_of(process: Process) -> str:
    """Return the full name of an agent's session scope."""
    return f"session:{process.pid}"


def own_scopes(process: Process) -> tuple[str, str]:
    """Return the full names of the scopes that are an agent's alone."""
    return session_of(process), f"agent:{process.name}"
