"""The gate: concurrency limits and exclusive locks of tools, in fair order.

Pure state. A ticket waits until its tool is below its limit and its lock is free; no ticket
overtakes another for the same tool or lock. Tickets are served in order of arrival, except that an
agent with several waiting tickets takes turns with the others: a thousand simultaneous calls of one
agent delay another's first call by one.
"""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass, field

from aios.kernel.loop.task import Promise


@dataclass(eq=False)
class Ticket:
    """One call at the gate. ``turn`` is settled when the call may begin."""

    pid: int
    tool: str
    limit: int
    lock: str
    server: int = 0
    """Pid of the agent that offers the tool; 0 for the toolhost."""
    turn: Promise[None] = field(default_factory=Promise)
    order: tuple[int, int] = field(default=(0, 0))
    running: bool = False

    def __lt__(self, other: Ticket) -> bool:
        return self.order < other.order


class Gate:
    """All tickets, waiting and running."""

    def __init__(self) -> None:
        self._waiting: list[Ticket] = []
        self._running: Counter[str] = Counter()
        self._held: dict[str, Ticket] = {}
        self._clock = self._number = 0
        self._last_turn: dict[int, int] = {}
        self._serving = False

    def enter(self, ticket: Ticket) -> None:
        """Queue a ticket. Its turn may come before this returns."""
        self._number += 1
        turn = max(self._clock, self._last_turn.get(ticket.pid, 0) + 1)
        self._last_turn[ticket.pid] = turn
        ticket.order = (turn, self._number)
        bisect.insort(self._waiting, ticket)
        self._serve()

    def leave(self, ticket: Ticket) -> None:
        """Remove a ticket, waiting or running; others may begin. Idempotent."""
        if ticket.running:
            ticket.running = False
            self._running[ticket.tool] -= 1
            if not self._running[ticket.tool]:
                del self._running[ticket.tool]
            if ticket.lock:
                del self._held[ticket.lock]
        else:
            at = bisect.bisect_left(self._waiting, ticket)
            if at < len(self._waiting) and self._waiting[at] is ticket:
                del self._waiting[at]
        self._serve()

    def running(self, tool: str) -> int:
        """Return the number of running calls of a tool."""
        return self._running[tool]

    def waiting(self, tool: str) -> int:
        """Return the number of waiting calls of a tool."""
        return sum(ticket.tool == tool for ticket in self._waiting)

    def waits_of(self, pid: int) -> list[str]:
        """Return the tools that an agent's calls wait for, with the holder of an exclusive one."""
        return [ticket.tool + self._holder(ticket) for ticket in self._waiting if ticket.pid == pid]

    def _holder(self, ticket: Ticket) -> str:
        holder = self._held.get(ticket.lock) if ticket.lock else None
        if holder is None:
            return ""
        who = f"pid {holder.pid}" if holder.pid else "the operator"
        return f" (pid {holder.server} serves {who})" if holder.server else f" ({who} uses it)"

    def _serve(self) -> None:
        """Begin all calls that may begin, in order. A call that ends at once reenters here."""
        if self._serving:
            return
        self._serving = True
        try:
            while (ticket := self._next()) is not None:
                self._begin(ticket)
                ticket.turn.resolve(None)
        finally:
            self._serving = False
        if not self._waiting:
            self._last_turn.clear()

    def _next(self) -> Ticket | None:
        blocked: set[str] = set()
        for ticket in self._waiting:
            tool, lock = f"t {ticket.tool}", f"l {ticket.lock}"
            if tool in blocked or (ticket.lock and lock in blocked):
                continue
            full = self._running[ticket.tool] >= ticket.limit
            if not full and not (ticket.lock and ticket.lock in self._held):
                return ticket
            blocked.add(tool)
            if ticket.lock:
                blocked.add(lock)
        return None

    def _begin(self, ticket: Ticket) -> None:
        del self._waiting[bisect.bisect_left(self._waiting, ticket)]
        ticket.running = True
        self._clock = max(self._clock, ticket.order[0])
        self._running[ticket.tool] += 1
        if ticket.lock:
            self._held[ticket.lock] = ticket

    def check(self) -> list[str]:
        """Return the inconsistencies found; empty if there are none."""
        problems = []
        for lock, ticket in self._held.items():
            if not ticket.running or ticket.lock != lock:
                problems.append(f"tools: lock {lock!r} is held by a call that does not run")
        if self._next() is not None:
            problems.append("tools: a call waits that could run")
        if any(count <= 0 for count in self._running.values()):
            problems.append("tools: a tool has a negative number of calls")
        return problems
