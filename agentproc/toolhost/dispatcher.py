"""The dispatcher: takes orders from the kernel, gives them to workers, and enforces limits.

Single-threaded, so that it can fork. Promises one report for each order, whatever the tool does:
a call that exceeds its time, or whose worker dies, is reported once nothing of it runs any more.
Ends with the kernel, and kills everything it started.
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
from aios.syscalls import toolwire as wire
from aios.syscalls.buffered_socket import BufferedSocket

from . import function_worker, worker_process
from .worker_process import MAX_PRINTED_BYTES, Job, Worker

MAX_WORKERS = 16
"""Limit on function workers; each MCP server has one worker in addition."""
_STOP_GRACE_S = 2.0
"""Time that an MCP worker has to end a call that is cancelled or late, before it is killed."""


class Dispatcher:
    """The workers, their jobs, and the jobs that wait for a worker."""

    def __init__(self, kernel: socket.socket) -> None:
        self._kernel = BufferedSocket(kernel, lambda wanted: self._want_write(kernel, wanted))
        self._inbox = bytearray()
        self._workers: dict[int, Worker] = {}
        self._waiting: deque[Job] = deque()
        self._timers: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._epoll = select.epoll()
        self._by_fd: dict[int, Worker] = {}  # by each registered descriptor
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Serve until the kernel is gone, then kill everything."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        kernel_fd = self._kernel.socket.fileno()
        self._epoll.register(kernel_fd, select.EPOLLIN)
        self._epoll.register(self._wake, select.EPOLLIN)
        alive = True
        while alive:
            for fd, events in self._epoll.poll(self._until_timer_s()):
                if fd == kernel_fd:
                    alive = self._serve_kernel(events)
                elif fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    self._reap()
                elif fd in self._by_fd:
                    self._serve_worker(self._by_fd[fd], fd, events)
            self._kill_late()
        for os_pid in list(self._workers):
            signal_tree(os_pid, signal.SIGKILL)
        end_strays(())

    # ------------------------------------------------------------------ the kernel

    def _serve_kernel(self, events: int) -> bool:
        """Return False when the kernel is gone."""
        if events & select.EPOLLOUT:
            self._kernel.flush()
        part = self._kernel.receive(1 << 18)
        if part is None:
            return True
        self._inbox += part
        while (message := wire.take(self._inbox)) is not None:
            self._obey(message)
        return bool(part)

    def _obey(self, message: wire.Message) -> None:
        match message:
            case wire.RunTool() | wire.DescribeSource():
                job = Job(message, time.monotonic() + message.timeout_s)
                if isinstance(message, wire.DescribeSource):
                    self._forget(message.source.name)
                self._waiting.append(job)
                self._dispatch()
            case wire.StopJob(number):
                self._stop(number)
            case wire.ReachAnswer(number):
                for each in self._workers.values():
                    if number in each.jobs:
                        each.link.send(wire.encode(message))
            case wire.ForgetSource(name):
                self._forget(name)

    def _report(self, report: wire.Report) -> None:
        self._kernel.send(wire.encode(report))

    def _want_write(self, sock: socket.socket, wanted: bool) -> None:
        if sock is self._kernel.socket or sock.fileno() in self._by_fd:
            self._epoll.modify(sock, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    # ------------------------------------------------------------------ jobs

    def _dispatch(self) -> None:
        """Give waiting jobs to workers, in order. A job that must wait delays no other source's."""
        for job in list(self._waiting):
            found = self._worker_for(job.order.source)
            if isinstance(found, str):
                self._waiting.remove(job)
                self._end(job, "TOOL_UNAVAILABLE", found)
            elif found:
                self._waiting.remove(job)
                self._begin(job, found)

    def _worker_for(self, source: wire.Source) -> Worker | str | None:
        """Return a free or new worker, None if all are busy, or the reason why none can start."""
        mine = [w for w in self._workers.values() if w.source == source and not w.doomed]
        for each in mine:
            if each.shared or not each.jobs:
                return each
        if source.kind != "mcp":
            idle = [w for w in self._workers.values() if not w.jobs and not w.doomed]
            functions = [w for w in self._workers.values() if not w.shared]
            if len(functions) >= MAX_WORKERS:
                for other in sorted((w for w in idle if not w.shared), key=lambda w: w.used_s)[:1]:
                    other.kill()  # its job starts once it is reaped
                return None
        try:
            return self._start(source)
        except OSError as error:
            return f"cannot start a process for {source.name}: {error}"

    def _start(self, source: wire.Source) -> Worker:
        made = worker_process.start(source, function_worker.serve, self._want_write)
        self._workers[made.os_pid] = made
        for fd in (made.link.socket.fileno(), made.out_fd):
            self._by_fd[fd] = made
            self._epoll.register(fd, select.EPOLLIN)
        return made

    def _begin(self, job: Job, by: Worker) -> None:
        now = time.monotonic()
        job.started_s = by.used_s = now
        job.due_s = now + job.order.timeout_s
        grace_s = _STOP_GRACE_S if by.shared else 0.0  # it enforces the deadline itself
        heapq.heappush(self._timers, (job.due_s + grace_s, next(self._order), job))
        by.jobs[job.order.job] = job
        by.link.send(wire.encode(job.order))

    def _stop(self, number: int) -> None:
        """Cancel a job: kill a function worker, ask an MCP worker."""
        for job in self._waiting:
            if job.order.job == number:
                self._waiting.remove(job)
                self._end(job, "CANCELLED", "cancelled before it began")
                return
        for each in self._workers.values():
            if number in each.jobs:
                job = each.jobs[number]
                if each.shared:
                    each.link.send(wire.encode(wire.StopJob(number)))
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
        if isinstance(order, wire.DescribeSource):
            self._report(wire.SourceDescribed(order.job, [], error=message))
            return
        run_s = time.monotonic() - job.started_s if job.started_s else 0.0
        output = job.output.decode("utf-8", "replace")
        self._report(wire.JobDone(order.job, "", code, message, "", output, run_s, lost))

    # ------------------------------------------------------------------ workers

    def _serve_worker(self, each: Worker, fd: int, events: int) -> None:
        if events & select.EPOLLOUT:
            each.link.flush()
        each.read_output()
        for job in each.jobs.values():
            if job.printed_bytes > MAX_PRINTED_BYTES and not each.shared and not job.verdict:
                reason = f"it printed more than {MAX_PRINTED_BYTES:,} bytes and was killed"
                job.verdict = ("RESOURCE_EXHAUSTED", reason)
                each.kill()
        if fd == each.out_fd:
            return
        part = each.link.receive(1 << 18)
        if part is None:
            return
        if not part:
            self._epoll.unregister(fd)
            del self._by_fd[fd]
            each.kill()
            return
        each.inbox += part
        try:
            while (message := wire.take(each.inbox)) is not None:
                self._hear(each, message)
        except ValueError:  # a tool wrote into the socket
            each.kill()

    def _hear(self, each: Worker, message: wire.Message) -> None:
        match message:
            case wire.JobDone(number) | wire.SourceDescribed(number) if number in each.jobs:
                job = each.jobs.pop(number)
                if isinstance(message, wire.JobDone) and not each.shared:
                    output = job.output.decode("utf-8", "replace")
                    message = msgspec.structs.replace(message, output=output)
                if isinstance(message, wire.JobDone) and message.lost:
                    each.doomed = True  # it is about to end
                self._report(message)
                self._dispatch()
            case wire.ReachRequest(number) if number in each.jobs:
                self._report(message)
            case wire.SourceChanged():
                each.doomed = True
                self._report(message)

    def _reap(self) -> None:
        """Reap all workers that have ended, and report their jobs."""
        ended = []
        while True:
            try:
                os_pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not os_pid:
                break
            each = self._workers.pop(os_pid, None)
            if each:
                ended.append((each, status))
        if not ended:
            return
        end_strays(self._workers)
        for each, status in ended:
            each.read_output()
            self._drop(each)
            for job in each.jobs.values():
                code = "TOOL_UNAVAILABLE" if each.shared else "TOOL_FAILED"
                code, message = job.verdict or (code, _end_reason(status))
                self._end(job, code, message, lost=job.verdict is None)
        self._dispatch()

    def _drop(self, each: Worker) -> None:
        for fd in (each.link.socket.fileno(), each.out_fd):
            if self._by_fd.pop(fd, None):
                self._epoll.unregister(fd)
        each.close()

    # ------------------------------------------------------------------ time

    def _until_timer_s(self) -> float:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1

    def _kill_late(self) -> None:
        """Kill the workers of jobs that exceed their time."""
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


def _end_reason(status: int) -> str:
    reason = exits.describe(os.waitstatus_to_exitcode(status))
    return f"its process ended during the call: {reason}"


def main() -> None:
    """Run ``python -m aios.toolhost FD``."""
    if not follow(os.getppid()):
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    function_worker.warm()
    gc.collect()
    gc.freeze()
    Dispatcher(socket.socket(fileno=int(sys.argv[1]))).run()
