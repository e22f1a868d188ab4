"""The tool manager: the life of a tool call, from its caller through the gate to its executor.

A call holds its ticket until nothing of it runs any more, even if its caller has stopped waiting;
so an exclusive tool never runs twice at once. A call is retried only if its tool is declared
idempotent and its process died. The manager runs no tool itself.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Promise
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
from aios.syscalls.types.tool import ToolReply, ToolWork

from .gate import Gate, Ticket
from .registry import Tool
from .toolhost_link import ToolHost

log = logging.getLogger("aios.tools")

MAX_ATTEMPTS = 3
MAX_BEHALF = 16
"""Limit on the length of a chain of agents that act for one another."""


@dataclass(eq=False)
class Call:
    """One call of a tool. ``pending`` is the system call that waits for it."""

    pending: Pending
    tool: Tool
    arguments: str
    caller: int
    caller_name: str
    may_reach: Callable[[str], None]
    """Raises AiosError if the caller may not reach a host."""
    refusal: AiosError | None = None
    """The last error of ``may_reach``. The caller gets it unchanged, so that the operator can be
    asked."""
    entered_s: float = 0.0
    began_s: float = 0.0
    attempts: int = 0
    job: int = 0
    ticket: Ticket = field(init=False)
    done: Promise[ToolReply] = field(default_factory=Promise)
    """The answer of the agent that offers the tool."""

    def __post_init__(self) -> None:
        tool = self.tool
        self.ticket = Ticket(
            self.caller, tool.name, tool.spec.concurrency, tool.lock, server=tool.owner
        )


@dataclass(eq=False)
class Offerer:
    """An agent that offers tools: calls waiting for it, calls that it serves, and its threads
    waiting for a call."""

    works: deque[Call] = field(default_factory=deque)
    given: dict[int, Call] = field(default_factory=dict)
    idle: deque[Promise[ToolWork]] = field(default_factory=deque)


class ToolCalls:
    """All tool calls in progress."""

    def __init__(self, loop: Loop, host: ToolHost) -> None:
        self._loop, self._host = loop, host
        self.gate = Gate()
        self._offerers: dict[int, Offerer] = {}
        self._works = 0

    async def run(self, call: Call) -> ToolReply:
        """Wait for the tool's turn, then run it. Raises AiosError."""
        call.entered_s = self._loop.now()
        call.pending.on_end(lambda error: self._dropped(call))
        self.gate.enter(call.ticket)
        await call.ticket.turn
        call.began_s = self._loop.now()
        call.tool.calls += 1
        try:
            reply = await (self._hand_over(call) if call.tool.owner else self._run(call))
        except Exception:  # not GeneratorExit: a call dropped when the kernel stops starts no other
            self.gate.leave(call.ticket)
            raise
        self.gate.leave(call.ticket)
        return reply

    async def _run(self, call: Call) -> ToolReply:
        """Run it in the toolhost; retry an idempotent tool if its process died."""
        tool, again = call.tool, True
        assert tool.source
        while again:
            call.attempts += 1
            call.job, done = self._host.run(
                tool.source, tool.spec.name, call.arguments, tool.spec.timeout_s,
                lambda host: self._reach(call, host),
            )  # fmt: skip
            report = await done
            again = report.lost and report.code != DeadlineExceeded.code and tool.spec.idempotent
            again = again and call.attempts < MAX_ATTEMPTS and not call.pending.ended
        if call.refusal and report.code == call.refusal.code:
            raise call.refusal
        if report.code:
            tried = f" (tried {call.attempts} times)" if call.attempts > 1 else ""
            raise _error(report.code, tool.name, report.message + tried, report.hint)
        waited_s = call.began_s - call.entered_s
        return ToolReply(report.result, report.output, waited_s, report.run_s, call.attempts)

    def _reach(self, call: Call, host: str) -> None:
        try:
            call.may_reach(host)
        except AiosError as error:
            call.refusal = error
            raise

    def _dropped(self, call: Call) -> None:
        """Stop a call whose caller no longer waits."""
        if not call.ticket.running:
            self.gate.leave(call.ticket)
        elif call.job:
            self._host.stop(call.job)
        else:
            offerer = self._offerers.get(call.tool.owner)
            if offerer and call in offerer.works:
                offerer.works.remove(call)
                call.done.reject(_ended(call))

    # ------------------------------------------------------------------ offered by agents

    def offers(self, pid: int) -> None:
        """Let an agent serve calls until it ends."""
        self._offerers.setdefault(pid, Offerer())

    async def _hand_over(self, call: Call) -> ToolReply:
        """Hand a call to the agent that offers the tool, and wait for the answer."""
        offerer = self._offerers.get(call.tool.owner)
        if offerer is None:  # it ended while this call waited for its turn
            raise _ended(call)
        alarm = self._loop.after(call.tool.spec.timeout_s, lambda: self._late(call))
        if offerer.idle:
            offerer.idle.popleft().resolve(self._give(offerer, call))
        else:
            offerer.works.append(call)
        try:
            return await call.done
        finally:
            alarm.cancel()

    def _give(self, offerer: Offerer, call: Call) -> ToolWork:
        self._works += 1
        offerer.given[self._works] = call
        return ToolWork(
            self._works, call.tool.name, call.arguments, call.caller, call.caller_name,
            call.began_s + call.tool.spec.timeout_s,
        )  # fmt: skip

    def _late(self, call: Call) -> None:
        """Fail a late call. The agent may still run it, so the ticket is held until it answers."""
        if not call.pending.ended:
            call.pending.fail(DeadlineExceeded(
                f"{call.tool.name}: pid {call.tool.owner} did not answer within "
                f"{call.tool.spec.timeout_s:g} s",
                f"see what it does: aios ps; aios logs {call.tool.owner}; end a call that hangs: "
                f"aios kill {call.tool.owner}",
            ))  # fmt: skip
        self._dropped(call)

    async def next_work(self, pid: int, pending: Pending) -> ToolWork:
        """Wait for a call for an agent to serve. Raises NotFound if the agent offers no tools."""
        offerer = self._offerers.get(pid)
        if offerer is None:
            raise NotFound(f"pid {pid} offers no tools", "offer some first: aios.tools.offer")
        if offerer.works:
            return self._give(offerer, offerer.works.popleft())
        idle: Promise[ToolWork] = Promise()
        offerer.idle.append(idle)
        pending.on_end(lambda error: offerer.idle.remove(idle))
        return await idle

    def served_for(self, pid: int, work: int) -> tuple[int, ...]:
        """Return the pids on whose behalf an agent serves this work: the caller and those for whom
        the caller acts. Raises PermissionDenied, ResourceExhausted."""
        offerer = self._offerers.get(pid)
        call = offerer.given.get(work) if offerer else None
        if call is None:
            raise PermissionDenied(
                f"pid {pid} does not serve work {work}, so it cannot act on behalf of its caller",
                "name unanswered work that tool.next has returned",
            )
        chain = dict.fromkeys((call.caller, *call.pending.asker.behalf))
        if len(chain) > MAX_BEHALF:
            raise ResourceExhausted(
                f"work {work} is done on behalf of a chain of {len(chain)} agents; the limit is "
                f"{MAX_BEHALF}", "shorten the chain of tools of agents that call one another",
            )  # fmt: skip
        return tuple(each for each in chain if each != pid)

    def answer(self, pid: int, work: int, answer: ToolReply | AiosError) -> None:
        """End a piece of work with an agent's answer. Raises NotFound if it has no such work."""
        offerer = self._offerers.get(pid)
        call = offerer.given.pop(work, None) if offerer else None
        if call is None:
            raise NotFound(f"pid {pid} has no work {work}", "answer each piece of work once")
        if isinstance(answer, AiosError):
            call.done.reject(answer)
            return
        waited_s, run_s = call.began_s - call.entered_s, self._loop.now() - call.began_s
        call.done.resolve(ToolReply(answer.result, "", waited_s, run_s))

    def owner_gone(self, pid: int) -> None:
        """Fail the calls of an agent that has ended."""
        offerer = self._offerers.pop(pid, None)
        for call in [*offerer.works, *offerer.given.values()] if offerer else ():
            call.done.reject(_ended(call))

    def waits_of(self, pid: int) -> list[str]:
        """Return what an agent's calls wait for: their turn, or another agent's answer."""
        served = [
            f"{call.tool.name} (pid {owner} serves it)"
            for owner, offerer in self._offerers.items()
            for call in (*offerer.given.values(), *offerer.works)
            if call.caller == pid and not call.pending.ended
        ]
        return served + self.gate.waits_of(pid)

    def check(self) -> list[str]:
        """Return the inconsistencies found; empty if there are none."""
        return self.gate.check()


def _ended(call: Call) -> ToolUnavailable:
    return ToolUnavailable(
        f"{call.tool.name}: pid {call.tool.owner}, which offered it, has ended",
        "start it again, or list other tools with: aios tool ls",
    )


def _error(code: str, tool: str, message: str, hint: str) -> AiosError:
    kind: Callable[[str, str], AiosError] = BY_CODE.get(code, ToolFailed)
    if kind is DeadlineExceeded:
        hint = hint or "give it less work; see the tool's timeout: aios tool show"
    own = tool.rpartition(".")[2]  # the name within its source
    hint = hint.replace(f"aios tool show {own}", f"aios tool show {tool}")
    return kind(f"{tool}: {message.removeprefix(f'{own}: ')}", hint)


_ANSWERS = ("INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
            "DEADLINE_EXCEEDED", "CANCELLED", "TOOL_FAILED", "TOOL_UNAVAILABLE")  # fmt: skip
"""Error codes that an offering agent may answer with; all others become TOOL_FAILED."""


def answered(code: str, message: str) -> AiosError:
    """Return the caller's error for an offering agent's."""
    return BY_CODE[code](message) if code in _ANSWERS else ToolFailed(message)
