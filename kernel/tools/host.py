"""The kernel's end of the toolhost: starts it when it is needed, and again when it has died.

Promises one report for every order, also when the toolhost dies, and that none outlives ``close``.
Never blocks. Deaths in quick succession are followed by pauses; after several it is given up until
somebody asks again.
"""

from __future__ import annotations

import itertools
import logging
import select
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from aios.kernel.loop.loop import Loop, Timer
from aios.syscalls.errors import AiosError
from aios.syscalls.toolwire import (
    DescribeSource,
    ForgetSource,
    JobDone,
    Order,
    ReachAnswer,
    ReachRequest,
    Report,
    RunTool,
    Source,
    SourceChanged,
    SourceDescribed,
    StopJob,
    encode,
    take,
)

log = logging.getLogger("aios.tools")

StartToolhost = Callable[[socket.socket], "subprocess.Popen[bytes]"]
OnReport = Callable[[JobDone | SourceDescribed], None]
OnReach = Callable[[str], None]
"""Whether a call may reach a host. Raises AiosError."""
_QUICK_S = 5.0
_PAUSES_S = (0.0, 0.5, 2.0, 5.0)
"""Before the next start, by how many deaths in quick succession there were."""
_GIVE_UP_S = 10.0
"""How much longer than its time a call may take before the toolhost is taken to be stuck."""
_CLOSE_TIMEOUT_S = 5.0


@dataclass(eq=False)
class _Open:
    """An order without its report."""

    order: RunTool | DescribeSource
    on_report: OnReport
    alarm: Timer
    on_reach: OnReach | None


class ToolHost:
    """One toolhost after another, and the orders under way."""

    def __init__(
        self,
        loop: Loop,
        start: StartToolhost,
        on_changed: Callable[[SourceChanged], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._loop, self._start = loop, start
        self._on_changed, self._on_lost = on_changed, on_lost
        self._jobs = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._in, self._out = bytearray(), bytearray()
        self._started_s = 0.0
        self._deaths = 0
        self._restart: Timer | None = None
        self.restarts = 0

    @property
    def os_pid(self) -> int:
        """The toolhost's host pid, 0 when there is none."""
        return self._process.pid if self._process else 0

    def run(
        self, source: Source, tool: str, arguments: str, timeout_s: float, done: OnReport,
        reach: OnReach,
    ) -> int:  # fmt: skip
        """Order a call; returns its job number. ``done`` gets a Done; ``reach`` is asked for each
        host meanwhile."""
        job = next(self._jobs)
        self._order(RunTool(job, source, tool, arguments, timeout_s), done, reach)
        return job

    def describe(self, source: Source, timeout_s: float, done: OnReport) -> None:
        """Ask for a source's tools; ``done`` gets a SourceDescribed, or a JobDone with an error."""
        self._order(DescribeSource(next(self._jobs), source, timeout_s), done)

    def stop(self, job: int) -> None:
        """End a call early; its report still comes."""
        if job in self._open:
            self._alarm(self._open[job], 0.0)
            self._send(StopJob(job))

    def forget(self, name: str) -> None:
        """A source is gone, or another now."""
        if self._process:
            self._send(ForgetSource(name))

    def close(self) -> None:
        """End the toolhost and all it runs; waits for that."""
        if self._restart:
            self._restart.cancel()
        for each in self._open.values():
            each.alarm.cancel()
        self._open.clear()
        self._drop()
        if self._process:
            try:
                self._process.wait(_CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _order(
        self, order: RunTool | DescribeSource, on_report: OnReport, on_reach: OnReach | None = None
    ) -> None:
        made = _Open(order, on_report, self._loop.at(0.0, lambda: None), on_reach)
        self._open[order.job] = made
        self._alarm(made, order.timeout_s)
        if self._process:
            self._send(order)
        elif self._restart is None or self._restart.cancelled:
            self._open_host()  # which sends all that is open

    def _alarm(self, each: _Open, after_s: float) -> None:
        """The toolhost keeps the times; this is for when it does not."""
        each.alarm.cancel()
        due_s = time.monotonic() + after_s + _GIVE_UP_S
        each.alarm = self._loop.at(due_s, self._stuck)

    def _stuck(self) -> None:
        log.error("the toolhost does not end a call that is late; killing it")
        if self._process:
            self._process.kill()  # its socket's end is the next event

    def _open_host(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = self._start(theirs)
        ours.setblocking(False)
        self._socket, self._started_s = ours, time.monotonic()
        self._in.clear()
        self._out.clear()
        self._loop.watch(ours.fileno(), self._ready)
        for each in list(self._open.values()):
            self._alarm(each, each.order.timeout_s)
            self._send(each.order)

    def _send(self, order: Order) -> None:
        if self._socket:
            self._out += encode(order)
            self._flush()

    def _flush(self) -> None:
        assert self._socket
        try:
            del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            return  # it is gone; the readable end says so next
        self._loop.want_write(self._socket.fileno(), bool(self._out))

    def _ready(self, events: int) -> None:
        if self._socket is None:
            return
        if events & select.EPOLLOUT:
            self._flush()
        if not events & ~select.EPOLLOUT:
            return
        try:
            part = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        self._in += part
        while self._socket and (message := take(self._in)) is not None:
            if isinstance(message, SourceChanged | SourceDescribed | JobDone | ReachRequest):
                self._hear(message)
        if not part and self._socket:
            self._lost()

    def _hear(self, report: Report) -> None:
        if isinstance(report, SourceChanged):
            self._on_changed(report)
            return
        if isinstance(report, ReachRequest):
            self._reach(report)
            return
        each = self._open.pop(report.job, None)
        if each:
            each.alarm.cancel()
            each.on_report(report)

    def _reach(self, asked: ReachRequest) -> None:
        each = self._open.get(asked.job)
        if each and each.on_reach:
            try:
                each.on_reach(asked.host)
                self._send(ReachAnswer(asked.job))
            except AiosError as error:
                self._send(ReachAnswer(asked.job, error.code, error.message, error.hint))

    def _drop(self) -> None:
        if self._socket:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _lost(self) -> None:
        """Calls under way end; who may be tried again is the caller's business."""
        self._drop()
        assert self._process
        self._process.kill()
        code = self._process.wait()
        self._process = None
        self._on_lost()
        quick = time.monotonic() - self._started_s < _QUICK_S
        self._deaths = self._deaths + 1 if quick else 1
        log.error("the toolhost ended (exit status %d)", code)
        lost, self._open = list(self._open.values()), {}
        given_up = self._deaths > len(_PAUSES_S)
        if not given_up:
            self.restarts += 1
            due_s = time.monotonic() + _PAUSES_S[self._deaths - 1]
            self._restart = self._loop.at(due_s, self._again)
        for each in lost:
            each.alarm.cancel()
            reason = "the toolhost died during the call"
            if given_up:
                reason += f"; it has died {self._deaths} times within seconds"
            each.on_report(JobDone(
                each.order.job, "", "TOOL_UNAVAILABLE", reason,
                "call again; if it goes on, the kernel's log says more", lost=not given_up,
            ))  # fmt: skip

    def _again(self) -> None:
        if self._process is None and self._open:
            self._open_host()
