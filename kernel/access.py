"""The access manager: who may make which call, on whom.

Decides from the call's row in the table and the caller that the connection proved. It changes
nothing and is asked once before every handler, and again by handlers that name a process.
"""

from __future__ import annotations

from aios.syscalls.errors import PermissionDenied
from aios.syscalls.table import Call, Effect

from .process import OPERATOR, Process, ProcessTable


class AccessManager:
    """Rights follow from the privilege column and the tree of processes."""

    def __init__(self, table: ProcessTable) -> None:
        self._table = table

    def check_call(self, caller_pid: int, call: Call) -> None:
        """Raises PermissionDenied when an agent makes a call of the operator's."""
        if call.privilege == "operator" and caller_pid != OPERATOR:
            raise PermissionDenied(
                f"{call.name} is the operator's; pid {caller_pid} is an agent",
                "use the aios command from a shell that no agent has started",
            )

    def check(
        self, caller_pid: int, kind: str, action: str, name: str, effect: Effect = "read"
    ) -> None:
        """Whether a caller may do something to a named thing that a manager keeps.

        ``kind``: path, tool, memory, model, agent, network …; ``action``: read, write, call …;
        ``name``: in the manager's own terms. Raises PermissionDenied. Until there are rules,
        everything is allowed that its manager lets a caller name.
        """

    def check_target(self, caller_pid: int, call: Call, target: Process) -> None:
        """Raises PermissionDenied when the call needs kin and the target is not the caller's."""
        if call.privilege == "kin" and not self._table.descends(target, caller_pid):
            raise PermissionDenied(
                f"{call.name}: pid {caller_pid} may act on itself and what it has started; "
                f"pid {target.pid} ({target.name}) is neither",
                f"as the operator, use: aios {call.name.split('.')[-1]} {target.pid}",
            )
