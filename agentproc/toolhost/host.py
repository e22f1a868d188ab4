"""The dispatcher: takes orders from the kernel, gives them to workers, and keeps their limits.

Single-threaded, so that it can fork. Promises one report for each order, whatever the tool does:
a call that outlives its time, or whose worker dies, is reported when nothing of it runs any more.
Ends with the kernel, and everything with it.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import os
import select
import signal
import socket
import sys
import time
from collections import deque

import msgspec

from aios.boot.child import follow
from aios.boot.tree import end_strays, signal_tree
from aios.syscalls import exits
from aios.syscalls.toolwire import (
    DescribeSource,
    ForgetSource,
    JobDone,
    Message,
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

from . import crew, worker
from .crew import Job, Worker

MOST_WORKERS = 16
_STOP_GRACE_S = 2.0
"""How long an MCP server's process may take to end a call that is cancelled or too late."""


class Host:
    """Workers, the jobs they do, and the jobs that wait for one."""

    def __init__(self, kernel: socket.socket) -> None:
        self._kernel = kernel
        self._in, self._out = bytearray(), bytearray()
        self._workers: dict[int, Worker] = {}
        self._waiting: deque[Job] = deque()
        self._timers: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._epoll = select.epoll()
        self._by_fd: dict[int, Worker] = {}
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Serve until the kernel is gone, then end everything."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._kernel.setblocking(False)
        self._epoll.register(self._kernel, select.EPOLLIN)
        self._epoll.register(self._wake, select.EPOLLIN)
        alive = True
        while alive:
            for fd, events in self._epoll.poll(self._patience_s()):
                if fd == self._kernel.fileno():
                    alive = self._serve_kernel(events)
                elif fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    self._bury()
                elif fd in self._by_fd:
                    if events & select.EPOLLOUT:
                        self._want_write(self._by_fd[fd], self._by_fd[fd].flush())
                    self._hear(self._by_fd[fd], fd)
            self._ring()
        for os_pid in list(self._workers):
            signal_tree(os_pid, signal.SIGKILL)
        end_strays(())

    # ------------------------------------------------------------------ the kernel

    def _serve_kernel(self, events: int) -> bool:
        if events & select.EPOLLOUT:
            self._flush()
        if not events & ~select.EPOLLOUT:
            return True
        try:
            part = self._kernel.recv(1 << 18)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._in += part
        while (message := take(self._in)) is not None:
            self._obey(message)
        return bool(part)

    def _obey(self, message: Message) -> None:
        match message:
            case RunTool() | DescribeSource():
                job = Job(message, time.monotonic() + message.timeout_s)
                if isinstance(message, DescribeSource):
                    self._forget(message.source.name)
                self._waiting.append(job)
                self._dispatch()
            case StopJob(number):
                self._stop(number)
            case ReachAnswer(number):
                for each in self._workers.values():
                    if number in each.jobs and each.send(message):
                        self._want_write(each, True)
            case ForgetSource(name):
                self._forget(name)

    def _report(self, report: Report) -> None:
        self._out += encode(report)
        self._flush()

    def _flush(self) -> None:
        try:
            del self._out[: self._kernel.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # the kernel is gone; the next read says so
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._out else 0)
        self._epoll.modify(self._kernel, wanted)

    # ------------------------------------------------------------------ jobs

    def _dispatch(self) -> None:
        """Give each waiting job a worker, in order; one that must wait stops no other source."""
        for job in list(self._waiting):
            found = self._worker_for(job.order.source)
            if isinstance(found, str):
                self._waiting.remove(job)
                self._end(job, "TOOL_UNAVAILABLE", found)
            elif found:
                self._waiting.remove(job)
                self._begin(job, found)

    def _worker_for(self, source: Source) -> Worker | str | None:
        """One that is free, or new; None when all are busy; a text when none can be started."""
        mine = [w for w in self._workers.values() if w.source == source and not w.doomed]
        for each in mine:
            if each.shared or not each.jobs:
                return each
        if source.kind != "mcp":
            idle = [w for w in self._workers.values() if not w.jobs and not w.doomed]
            functions = [w for w in self._workers.values() if not w.shared]
            if len(functions) >= MOST_WORKERS:
                for other in sorted((w for w in idle if not w.shared), key=lambda w: w.used_s)[:1]:
                    other.kill()  # its burial makes room
                return None
        try:
            return self._start(source)
        except OSError as error:
            return f"cannot start a process for {source.name}: {error}"

    def _start(self, source: Source) -> Worker:
        made = crew.start(source, worker.serve)
        self._workers[made.os_pid] = made
        for fd in (made.sock.fileno(), made.out_fd):
            self._by_fd[fd] = made
            self._epoll.register(fd, select.EPOLLIN)
        return made

    def _begin(self, job: Job, by: Worker) -> None:
        now = time.monotonic()
        job.started_s = by.used_s = now
        job.due_s = now + job.order.timeout_s
        grace_s = _STOP_GRACE_S if by.shared else 0.0  # it keeps the time itself
        heapq.heappush(self._timers, (job.due_s + grace_s, next(self._order), job))
        by.jobs[job.order.job] = job
        if by.send(job.order):
            self._want_write(by, True)

    def _want_write(self, each: Worker, wanted: bool) -> None:
        if each.sock.fileno() in self._by_fd:
            events = select.EPOLLIN | (select.EPOLLOUT if wanted else 0)
            self._epoll.modify(each.sock, events)

    def _stop(self, number: int) -> None:
        """Cancelled: a function's worker dies for it, an MCP server is asked."""
        for job in self._waiting:
            if job.order.job == number:
                self._waiting.remove(job)
                self._end(job, "CANCELLED", "cancelled before it began")
                return
        for each in self._workers.values():
            if number in each.jobs:
                job = each.jobs[number]
                if each.shared:
                    each.send(StopJob(number))
                    late_s = time.monotonic() + _STOP_GRACE_S
                    heapq.heappush(self._timers, (late_s, next(self._order), job))
                else:
                    job.verdict = ("CANCELLED", "cancelled; it was ended while it ran")
                    each.kill()

    def _forget(self, name: str) -> None:
        for each in list(self._workers.values()):
            if each.source.name == name:
                each.kill()

    def _end(self, job: Job, code: str, message: str, *, lost: bool = False) -> None:
        order = job.order
        if isinstance(order, DescribeSource):
            self._report(SourceDescribed(order.job, [], error=message))
            return
        run_s = time.monotonic() - job.started_s if job.started_s else 0.0
        output = job.output.decode("utf-8", "replace")
        self._report(JobDone(order.job, "", code, message, "", output, run_s, lost))

    # ------------------------------------------------------------------ workers

    def _hear(self, each: Worker, fd: int) -> None:
        each.listen()
        for job in each.jobs.values():
            if job.printed_bytes > crew.MOST_PRINTED_BYTES and not each.shared and not job.verdict:
                job.verdict = ("RESOURCE_EXHAUSTED", f"it printed more than "
                               f"{crew.MOST_PRINTED_BYTES:,} bytes and was ended")  # fmt: skip
                each.kill()
        if fd == each.out_fd:
            return
        try:
            part = each.sock.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._epoll.unregister(fd)
            del self._by_fd[fd]
            each.kill()
            return
        each.inbox += part
        try:
            while (message := take(each.inbox)) is not None:
                self._said(each, message)
        except ValueError:  # tools may write into the socket, too
            each.kill()

    def _said(self, each: Worker, message: Message) -> None:
        match message:
            case JobDone(number) | SourceDescribed(number) if number in each.jobs:
                job = each.jobs.pop(number)
                if isinstance(message, JobDone) and not each.shared:
                    output = job.output.decode("utf-8", "replace")
                    message = msgspec.structs.replace(message, output=output)
                each.doomed |= isinstance(message, JobDone) and message.lost  # it is about to end
                self._report(message)
                self._dispatch()
            case ReachRequest(number) if number in each.jobs:
                self._report(message)
            case SourceChanged():
                each.doomed = True
                self._report(message)

    def _bury(self) -> None:
        """Bury all that have ended; what they were doing ends with them."""
        buried = []
        while True:
            try:
                os_pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not os_pid:
                break
            each = self._workers.pop(os_pid, None)
            if each:
                buried.append((each, status))
        if not buried:
            return
        end_strays(self._workers)
        for each, status in buried:
            each.listen()
            self._drop(each)
            for job in each.jobs.values():
                code = "TOOL_UNAVAILABLE" if each.shared else "TOOL_FAILED"
                code, message = job.verdict or (code, _how(status))
                self._end(job, code, message, lost=job.verdict is None)
        self._dispatch()

    def _drop(self, each: Worker) -> None:
        for fd in (each.sock.fileno(), each.out_fd):
            if self._by_fd.pop(fd, None):
                self._epoll.unregister(fd)
        each.close()

    # ------------------------------------------------------------------ time

    def _patience_s(self) -> float:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1

    def _ring(self) -> None:
        """End what is late."""
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, job = heapq.heappop(self._timers)
            for each in self._workers.values():
                if each.jobs.get(job.order.job) is job and not job.verdict:
                    job.verdict = (
                        "DEADLINE_EXCEEDED",
                        f"it ran longer than {job.order.timeout_s:g} s and was ended",
                    )
                    each.kill()


def _how(status: int) -> str:
    how = exits.describe(os.waitstatus_to_exitcode(status))
    return f"its process ended during the call: {how}"


def main() -> None:
    """``python -m aios.toolhost FD``."""
    if not follow(os.getppid()):
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    worker.warm()
    gc.collect()
    gc.freeze()
    Host(socket.socket(fileno=int(sys.argv[1]))).run()
