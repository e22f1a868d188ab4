"""The kernel's end of the toolhost: starts the process on demand, and restarts it when it dies.

Promises one report for every order, even if the toolhost dies, and that no toolhost outlives
``close``. Blocks only in ``close``. Restarts after deaths in quick succession are delayed; after
several deaths without a report, the toolhost is restarted only for the next order.
"""

from __future__ import annotations

import itertools
import logging
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

from aios.kernel.loop.link import Link
from aios.kernel.loop.loop import Loop, Timer
from aios.kernel.loop.respawn import Respawn
from aios.kernel.loop.task import Promise, Task
from aios.syscalls import toolwire as wire
from aios.syscalls.errors import AiosError, Cancelled, ToolUnavailable

log = logging.getLogger("aios.tools")

StartToolhost = Callable[[socket.socket], "subprocess.Popen[bytes]"]
OnReach = Callable[[str], None]
"""Raises AiosError if a call may not reach a host."""
MAX_DEATHS = 5
"""Limit on deaths in a row, without a report in between, before restarts stop."""
_GRACE_S = 10.0
"""Time after a call's timeout until the toolhost is killed as stuck."""
_CLOSE_TIMEOUT_S = 5.0


@dataclass(eq=False)
class _Open:
    """An order without its report."""

    order: wire.RunTool | wire.DescribeSource
    on_reach: OnReach | None
    alarm: Timer
    report: Promise[wire.JobDone | wire.SourceDescribed] = field(default_factory=Promise)


class ToolHost:
    """The toolhost process, and the orders in progress."""

    def __init__(
        self,
        loop: Loop,
        start: StartToolhost,
        on_changed: Callable[[wire.SourceChanged], None],
        on_lost: Callable[[], None],
    ) -> None:
        """``on_changed`` is called when an MCP server's tools differ from the approved ones,
        ``on_lost`` when the toolhost dies."""
        self._loop, self._start = loop, start
        self._on_changed, self._on_lost = on_changed, on_lost
        self._jobs = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link[wire.Order, wire.Message] | None = None
        self._respawn = Respawn(loop, self._restart, MAX_DEATHS)

    @property
    def os_pid(self) -> int:
        """Host pid of the toolhost, 0 if there is none."""
        return self._process.pid if self._process else 0

    @property
    def restarts(self) -> int:
        """Restarts since the kernel started."""
        return self._respawn.restarts

    def run(
        self, source: wire.Source, tool: str, arguments: str, timeout_s: float, on_reach: OnReach
    ) -> tuple[int, Task[wire.JobDone]]:
        """Run a tool. Return the number of the job, and its report; ``on_reach`` is called for each
        host that the tool wants to reach."""
        job = next(self._jobs)
        report = self._order(wire.RunTool(job, source, tool, arguments, timeout_s), on_reach)
        return job, _job_done(report)

    async def describe(self, source: wire.Source, timeout_s: float) -> wire.SourceDescribed:
        """List a source's tools. Raises ToolUnavailable."""
        report = await self._order(wire.DescribeSource(next(self._jobs), source, timeout_s))
        error = report.message if isinstance(report, wire.JobDone) else report.error
        if error or isinstance(report, wire.JobDone):
            raise ToolUnavailable(error)
        return report

    def stop(self, job: int) -> None:
        """End a call early. It still has a report."""
        if job not in self._open:
            return
        if self._link is None:  # it waits for a restart
            self._end(wire.JobDone(job, "", Cancelled.code, "cancelled before it began"))
            return
        self._set_alarm(self._open[job], 0.0)
        self._send(wire.StopJob(job))

    def forget(self, name: str) -> None:
        """End the workers of a source that was removed or changed."""
        self._send(wire.ForgetSource(name))

    def close(self) -> None:
        """End the toolhost and all that it runs, and wait for it."""
        self._respawn.cancel()
        for each in self._open.values():
            each.alarm.cancel()
        self._open.clear()
        if self._link:
            self._link.close()
            self._link = None
        if self._process:
            try:
                self._process.wait(_CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _order(
        self, order: wire.RunTool | wire.DescribeSource, on_reach: OnReach | None = None
    ) -> Promise[wire.JobDone | wire.SourceDescribed]:
        made = _Open(order, on_reach, self._loop.after(0.0, lambda: None))
        self._open[order.job] = made
        self._set_alarm(made, order.timeout_s)
        if self._process:
            self._send(order)
        elif not self._respawn.waiting:
            self._try_open_host()  # which sends all open orders
        return made.report

    def _try_open_host(self) -> None:
        try:
            self._open_host()
        except OSError as error:
            self._end_all(f"the toolhost cannot be started: {error.strerror}", lost=False)

    def _set_alarm(self, each: _Open, after_s: float) -> None:
        """Set the alarm for a toolhost that does not enforce the deadline itself."""
        each.alarm.cancel()
        each.alarm = self._loop.after(after_s + _GRACE_S, self._stuck)

    def _stuck(self) -> None:
        log.error("the toolhost is stuck: it did not end a late call; killing it")
        if self._process:
            self._process.kill()  # the end of its socket is the next event

    def _open_host(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._start(theirs)
            except OSError:
                ours.close()
                raise
        self._link = Link(self._loop, ours, self._hear, self._lost, wire.encode, wire.take)
        for each in list(self._open.values()):
            self._set_alarm(each, each.order.timeout_s)
            self._send(each.order)

    def _restart(self) -> None:
        if self._process is None and self._open:
            self._try_open_host()

    def _send(self, order: wire.Order) -> None:
        if self._link:
            self._link.send(order)

    def _hear(self, message: wire.Message) -> None:
        match message:
            case wire.SourceChanged():
                self._on_changed(message)
            case wire.ReachRequest():
                self._reach(message)
            case wire.JobDone() | wire.SourceDescribed():
                self._respawn.worked()
                self._end(message)

    def _end(self, report: wire.JobDone | wire.SourceDescribed) -> None:
        each = self._open.pop(report.job, None)
        if each:
            each.alarm.cancel()
            each.report.resolve(report)

    def _reach(self, asked: wire.ReachRequest) -> None:
        each = self._open.get(asked.job)
        if each and each.on_reach:
            try:
                each.on_reach(asked.host)
                self._send(wire.ReachAnswer(asked.job))
            except AiosError as error:
                self._send(wire.ReachAnswer(asked.job, error.code, error.message, error.hint))

    def _lost(self) -> None:
        """End the calls of a toolhost that has died. Their callers decide whether to retry."""
        assert self._process
        self._process.kill()
        log.error("the toolhost ended (exit status %d)", self._process.wait())
        self._process = self._link = None
        self._on_lost()
        reason, retry = "the toolhost died during the call", self._respawn.died()
        if not retry:
            reason += f"; it has died {MAX_DEATHS} times in a row"
        self._end_all(reason, lost=retry)

    def _end_all(self, reason: str, *, lost: bool) -> None:
        """Fail the open orders. Orders made meanwhile are others."""
        ended, self._open = list(self._open.values()), {}
        for each in ended:
            each.alarm.cancel()
        for each in ended:
            each.report.resolve(wire.JobDone(
                each.order.job, "", "TOOL_UNAVAILABLE", reason,
                "call again; if that fails, see the kernel's log", lost=lost,
            ))  # fmt: skip


async def _job_done(report: Promise[wire.JobDone | wire.SourceDescribed]) -> wire.JobDone:
    done = await report
    assert isinstance(done, wire.JobDone)
    return done
