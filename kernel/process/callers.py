"""Callers: who a connection belongs to, and what ends with the connection or its process.

Promises that an agent is identified by its secret and host process, a guest by its host process,
and the operator as a process that descends neither from an agent nor, as tools do, from the
kernel. The calls of a caller that is gone are abandoned.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable

from aios.kernel.access.principals import OPERATOR
from aios.kernel.trap.doors import OPERATORS, Claim, Peer
from aios.kernel.trap.pending import Caller
from aios.syscalls.errors import Cancelled, PermissionDenied

from .supervisor import Supervisor
from .table import Process, ProcessTable

_OPERATOR_USER = "op:"


class Callers:
    """All callers by user: a pid, or ``op:`` and a host pid."""

    def __init__(
        self, table: ProcessTable, supervisor: Supervisor, on_gone: Callable[[str], None]
    ) -> None:
        """``on_gone`` is called with each user whose process has ended."""
        self._table, self._supervisor, self._on_gone = table, supervisor, on_gone
        self.by_user: dict[str, Caller] = {}

    def admit(self, claim: Claim) -> str:
        """Return the user of a new connection. Raises PermissionDenied, NotFound."""
        if claim.uid != os.getuid():
            raise PermissionDenied(f"this kernel serves uid {os.getuid()}, not {claim.uid}")
        if claim.door == OPERATORS:
            return self._admit_operator(claim)
        if claim.name.isdecimal() and len(claim.name) < 19:
            process = self._table.get(int(claim.name))
            if process and process.secret and hmac.compare_digest(claim.secret, process.secret):
                if process.os_pid not in (0, claim.os_pid):
                    raise PermissionDenied(f"pid {process.pid} is another host process")
                return self._enrol(process, claim.os_pid)
            raise PermissionDenied(f"no living agent {claim.name} has this secret")
        return self._enrol(self._supervisor.adopt_guest(claim.os_pid), claim.os_pid)

    def _enrol(self, process: Process, os_pid: int) -> str:
        user = str(process.pid)
        self.by_user.setdefault(user, Caller(user, process.pid, os_pid))
        return user

    def _admit_operator(self, claim: Claim) -> str:
        agent = self._supervisor.agent_above(claim.os_pid)
        if agent and not agent.guest:
            raise PermissionDenied(f"pid {agent.pid} ({agent.name}) is an agent, not the operator")
        if not agent and self._supervisor.is_ours(claim.os_pid):
            raise PermissionDenied(f"host pid {claim.os_pid} is a tool's, not the operator's")
        user = f"{_OPERATOR_USER}{claim.os_pid}"
        if user not in self.by_user:
            self.by_user[user] = Caller(user, OPERATOR, claim.os_pid)
            self._supervisor.watch_host(claim.os_pid, lambda: self._drop(user))
        return user

    def forget(self, process: Process) -> None:
        """Drop the caller of an agent that has ended; the agent keeps its call count."""
        caller = self.by_user.get(str(process.pid))
        if caller:
            process.calls = caller.calls
            self._drop(caller.user)

    def give_up(self, peer: Peer) -> None:
        """Handle a peer that does not read its replies: kill an agent, abandon others' calls."""
        caller = self.by_user.get(peer.user)
        process = self._table.get(caller.pid) if caller else None
        if process and not process.guest:
            if process.life != "ending":
                self._supervisor.kill(process, "it did not read its replies")
        elif caller:
            _abandon(caller, "its caller does not read its replies")

    def silence(self, process: Process) -> None:
        """Abandon the calls of an agent that is being killed; it gets no more replies."""
        caller = self.by_user.get(str(process.pid))
        if caller:
            _abandon(caller, f"pid {process.pid} was killed")

    def _drop(self, user: str) -> None:
        """Remove a caller whose process has ended."""
        caller = self.by_user.pop(user)
        self._on_gone(user)
        _abandon(caller, f"{user} has ended")


def _abandon(caller: Caller, why: str) -> None:
    for pending in list(caller.pending.values()):
        pending.abandon(Cancelled(why))
