"""Sessions of living agents: their notes, bytes and interaction logs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from aios.kernel.process.table import Process

from .quota import Usage


@dataclass(eq=False)
class Session:
    """The session of a living agent."""

    process: Process
    notes: int = 0
    size_bytes: int = 0
    log: deque[str] = field(default_factory=deque)
    """Ids of the interaction log, the oldest first."""
    failing: bool = False
    """Its file could not be written the last time: notes are acknowledged when they are in it."""

    def book(self, notes: int, size_bytes: int) -> None:
        """Add to what it holds, also in the process table."""
        self.notes += notes
        self.size_bytes += size_bytes
        self.process.notes, self.process.note_bytes = self.notes, self.size_bytes


class Sessions(dict[str, Session]):
    """Sessions by the full name of their scope."""

    def usages(self) -> dict[str, Usage]:
        """Return what sessions hold, except empty ones."""
        return {scope: Usage(session.notes, session.size_bytes)
                for scope, session in self.items() if session.notes}  # fmt: skip

    def check(self) -> list[str]:
        """Return what is wrong; empty when all is well."""
        problems = []
        for scope, session in self.items():
            if not session.process.living:
                problems.append(f"{scope} outlived its agent")
            if session.notes < len(session.log) or session.size_bytes < session.notes:
                problems.append(f"{scope}: {session.notes} notes of {session.size_bytes} bytes")
        return problems
