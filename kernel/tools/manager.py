"""The tool manager: the life of a tool call, from its caller through the gate to who runs it.

A call holds its place at the gate until nothing of it runs any more, however it ends for its
caller; so an exclusive tool is never in two hands. It is tried again only if its tool is declared
idempotent and its process died. Runs no tool itself.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.trap.pending import Pending
from aios.syscalls.errors import (
    BY_CODE,
    AiosError,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ToolFailed,
    ToolUnavailable,
)
from aios.syscalls.toolwire import JobDone, SourceDescribed
from aios.syscalls.types.tool import ToolReply, ToolWork

from .gate import Gate, Ticket
from .host import ToolHost
from .registry import Tool

log = logging.getLogger("aios.tools")

MOST_ATTEMPTS = 3
MOST_BEHALF = 16
"""Agents on whose behalf one may act at once, each having called a tool for the one before."""


@dataclass(eq=False)
class Call:
    """One call of a tool. ``pending`` is who waits for it."""

    pending: Pending
    tool: Tool
    arguments: str
    caller: int
    caller_name: str
    behalf: tuple[int, ...] = ()
    """On whose behalf its caller called."""
    may_reach: Callable[[str], None] = lambda host: None
    """Whether its caller may reach a host. Raises AiosError."""
    refusal: AiosError | None = None
    """Why it may not: told to the caller as it is, so that a question can be answered."""
    ticket: Ticket | None = None
    entered_s: float = field(default_factory=time.monotonic)
    began_s: float = 0.0
    attempts: int = 0
    job: int = 0
    work: int = 0
    timer: Timer | None = None


@dataclass(eq=False)
class Offerer:
    """An agent that offers tools: calls for it, and its threads that wait for some."""

    works: deque[Call] = field(default_factory=deque)
    given: dict[int, Call] = field(default_factory=dict)
    idle: deque[Pending] = field(default_factory=deque)


class ToolCalls:
    """All calls under way."""

    def __init__(self, loop: Loop, host: ToolHost) -> None:
        self._loop, self._host = loop, host
        self.gate = Gate()
        self._offerers: dict[int, Offerer] = {}
        self._works = 0

    def start(self, call: Call) -> None:
        """Wait for the tool's turn, then run it."""
        call.pending.defer(lambda error: self._dropped(call))
        ticket = Ticket(call.caller, call.tool.name, call.tool.spec.concurrency, call.tool.lock,
                        lambda: self._begin(call), call.tool.owner)  # fmt: skip
        call.ticket = ticket
        self.gate.enter(ticket)

    def _begin(self, call: Call) -> None:
        call.began_s = time.monotonic()
        call.tool.calls += 1
        if call.tool.owner:
            self._hand_over(call)
        else:
            self._run(call)

    def _run(self, call: Call) -> None:
        call.attempts += 1
        tool = call.tool
        assert tool.source
        call.job = self._host.run(
            tool.source, tool.spec.name, call.arguments, tool.spec.timeout_s,
            lambda report: self._ran(call, report), lambda host: self._reach(call, host),
        )  # fmt: skip

    def _reach(self, call: Call, host: str) -> None:
        try:
            call.may_reach(host)
        except AiosError as error:
            call.refusal = error
            raise

    def _ran(self, call: Call, report: JobDone | SourceDescribed) -> None:
        assert isinstance(report, JobDone)
        late = report.code == DeadlineExceeded.code
        again = (
            report.lost and not late and call.tool.spec.idempotent and call.attempts < MOST_ATTEMPTS
        )
        if again and not call.pending.ended:
            self._run(call)
            return
        if call.refusal and report.code == call.refusal.code:
            self._over(call, call.refusal)
        elif report.code:
            tried = f" (tried {call.attempts} times)" if call.attempts > 1 else ""
            self._over(call, _error(report.code, call.tool.name, report.message + tried,
                                    report.hint))  # fmt: skip
        else:
            self._over(call, ToolReply(
                report.result, report.output, call.began_s - call.entered_s, report.run_s,
                call.attempts,
            ))  # fmt: skip

    def _over(self, call: Call, outcome: ToolReply | AiosError) -> None:
        """Nothing of it runs any more."""
        if call.timer:
            call.timer.cancel()
        if isinstance(outcome, AiosError):
            call.pending.fail(outcome)
        else:
            call.pending.reply(outcome)
        assert call.ticket
        self.gate.leave(call.ticket)

    def _dropped(self, call: Call) -> None:
        """Its caller waits no longer."""
        assert call.ticket
        if not call.ticket.running:
            self.gate.leave(call.ticket)
        elif call.job:
            self._host.stop(call.job)
        else:
            offerer = self._offerers.get(call.tool.owner)
            if offerer and call in offerer.works:
                offerer.works.remove(call)
                self.gate.leave(call.ticket)

    # ------------------------------------------------------------------ offered by agents

    def offers(self, pid: int) -> None:
        """An agent may be given calls from now on, until it ends."""
        self._offerers.setdefault(pid, Offerer())

    def _hand_over(self, call: Call) -> None:
        offerer = self._offerers.get(call.tool.owner)
        if offerer is None:  # it ended while this call waited for its turn
            self._over(call, _ended(call))
            return
        timeout_s = call.tool.spec.timeout_s
        call.timer = self._loop.at(call.began_s + timeout_s, lambda: self._late(call))
        while offerer.idle:
            idle = offerer.idle.popleft()
            if not idle.ended:
                self._give(offerer, call, idle)
                return
        offerer.works.append(call)

    def _give(self, offerer: Offerer, call: Call, to: Pending) -> None:
        self._works += 1
        call.work = self._works
        offerer.given[call.work] = call
        to.reply(ToolWork(
            call.work, call.tool.name, call.arguments, call.caller, call.caller_name,
            call.began_s + call.tool.spec.timeout_s,
        ))  # fmt: skip

    def _late(self, call: Call) -> None:
        """The agent may still be at it, so the tool stays taken until it says."""
        if not call.pending.ended:
            call.pending.fail(DeadlineExceeded(
                f"{call.tool.name}: pid {call.tool.owner} did not answer within "
                f"{call.tool.spec.timeout_s:g} s",
                f"look at it with: aios ps; aios logs {call.tool.owner}; a call that never ends is "
                f"ended by: aios kill {call.tool.owner}",
            ))  # fmt: skip
        self._dropped(call)

    def next_work(self, pid: int, pending: Pending) -> None:
        """An agent's thread asks for a call to serve. Raises NotFound when it offers nothing."""
        offerer = self._offerers.get(pid)
        if offerer is None:
            raise NotFound(f"pid {pid} offers no tools", "offer some first: aios.tools.offer")
        pending.defer(lambda error: offerer.idle.remove(pending))
        if offerer.works:
            self._give(offerer, offerer.works.popleft(), pending)
        else:
            offerer.idle.append(pending)

    def served_for(self, pid: int, work: int) -> tuple[int, ...]:
        """On whose behalf an agent acts that serves this work now: the tool's caller, and those on
        whose behalf that one called. Raises PermissionDenied, ResourceExhausted."""
        offerer = self._offerers.get(pid)
        call = offerer.given.get(work) if offerer else None
        if call is None:
            raise PermissionDenied(
                f"pid {pid} acts on nobody's behalf by work {work}: it does not serve that now",
                "name work that tool.next has given, until it is answered",
            )
        chain = dict.fromkeys((call.caller, *call.behalf))
        if len(chain) > MOST_BEHALF:
            raise ResourceExhausted(
                f"work {work} is done on behalf of {len(chain)} agents, one for another; the "
                f"limit is {MOST_BEHALF}", "let fewer tools of agents call one another",
            )  # fmt: skip
        return tuple(each for each in chain if each != pid)

    def answer(self, pid: int, work: int, outcome: ToolReply | AiosError) -> None:
        """An agent's answer. Raises NotFound when it has no such work."""
        offerer = self._offerers.get(pid)
        call = offerer.given.pop(work, None) if offerer else None
        if call is None:
            raise NotFound(f"pid {pid} has no work {work}", "each is answered once")
        if isinstance(outcome, ToolReply):
            now = time.monotonic()
            outcome = ToolReply(outcome.result, "", call.began_s - call.entered_s,
                                now - call.began_s)  # fmt: skip
        self._over(call, outcome)

    def owner_gone(self, pid: int) -> None:
        """An agent has ended: what it was to serve fails."""
        offerer = self._offerers.pop(pid, None)
        for call in [*offerer.works, *offerer.given.values()] if offerer else ():
            self._over(call, _ended(call))

    def waits_of(self, pid: int) -> list[str]:
        """What an agent's calls wait for: their turn, or another agent's answer."""
        served = [
            f"{call.tool.name} (pid {owner} serves it)"
            for owner, offerer in self._offerers.items()
            for call in (*offerer.given.values(), *offerer.works)
            if call.caller == pid and not call.pending.ended
        ]
        return served + self.gate.waits_of(pid)

    def check(self) -> list[str]:
        """What is wrong with the accounts; empty when all is well."""
        return self.gate.check()


def _ended(call: Call) -> ToolUnavailable:
    return ToolUnavailable(
        f"{call.tool.name}: pid {call.tool.owner}, which offered it, has ended",
        "start it again, or list others with: aios tool ls",
    )


def _error(code: str, tool: str, message: str, hint: str) -> AiosError:
    kind: Callable[[str, str], AiosError] = BY_CODE.get(code, ToolFailed)
    if kind is DeadlineExceeded:
        hint = hint or "give it less to do; the tool's own timeout is shown by: aios tool show"
    own = tool.rpartition(".")[2]  # as the tool calls itself
    hint = hint.replace(f"aios tool show {own}", f"aios tool show {tool}")
    return kind(f"{tool}: {message.removeprefix(f'{own}: ')}", hint)


_ANSWERS = ("INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
            "DEADLINE_EXCEEDED", "CANCELLED", "TOOL_FAILED", "TOOL_UNAVAILABLE")  # fmt: skip
"""Errors that an offering agent may answer with; others say something of the kernel."""


def answered(code: str, message: str) -> AiosError:
    """An offering agent's error, as its caller gets it."""
    return BY_CODE[code](message) if code in _ANSWERS else ToolFailed(message)
