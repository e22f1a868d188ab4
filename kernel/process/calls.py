"""System calls for processes and messages: ``proc.*``, ``ipc.*`` and ``getpid``."""

from __future__ import annotations

from collections.abc import Callable

import msgpack

from aios.kernel.access.manager import ACCOUNTS, AccessManager
from aios.kernel.access.principals import OPERATOR
from aios.kernel.loop.clock import Clock
from aios.kernel.loop.task import Promise
from aios.kernel.scheduler import policy
from aios.kernel.trap.pending import Caller, Handler, Pending
from aios.syscalls.errors import AiosError, InvalidArgument, NotFound, ResourceExhausted
from aios.syscalls.types import process as p
from aios.syscalls.types.common import Empty
from aios.syscalls.types.mail import MailReply, RecvRequest, SendRequest

from . import host
from .mail import Letter, Receiver
from .supervisor import Supervisor
from .table import Process, ProcessTable
from .work import Work

MAX_MESSAGE_BYTES = 1 << 20
"""Limit on the encoded size of one message."""


class ProcessCalls:
    """Handlers. ``callers`` maps users to the kernel's callers."""

    def __init__(
        self, table: ProcessTable, access: AccessManager, supervisor: Supervisor, work: Work,
        clock: Clock, callers: dict[str, Caller], waits_of: Callable[[int], list[str]],
    ) -> None:  # fmt: skip
        self._table, self._access, self._supervisor = table, access, supervisor
        self._clock = clock
        self._work, self._callers, self._waits_of = work, callers, waits_of
        self.handlers: dict[str, Handler] = {
            "getpid": self._getpid,
            "proc.ps": self._ps,
            "proc.spawn": self._spawn,
            "proc.wait": self._wait,
            "proc.signal": self._signal,
            "proc.renice": self._renice,
            "proc.log": self._log,
            "ipc.send": self._send,
            "ipc.recv": self._recv,
        }

    def _getpid(self, call: Pending, _: Empty) -> p.Pid:
        if call.caller.pid == OPERATOR:
            return p.Pid(OPERATOR, "operator", OPERATOR)
        process = self._table.caller(call.caller.pid)
        return p.Pid(process.pid, process.name, process.parent)

    def _ps(self, _: Pending, body: p.PsRequest) -> p.ProcessList:
        chosen = self._table.all() if body.all else self._table.living()
        return p.ProcessList([self._row(process) for process in chosen])

    def _row(self, process: Process) -> p.ProcessInfo:
        running = process.living and process.os_pid
        cpu_s, rss_bytes = host.usage(process.os_pid) if running else (0.0, 0)
        until_s = process.ended_s or self._clock.now()
        requests = process.requests.values()
        return p.ProcessInfo(
            pid=process.pid, parent=process.parent, name=process.name, state=_shown(process),
            klass=process.klass, nice=process.nice, os_pid=process.os_pid,
            started_unix=process.started_unix, age_s=until_s - process.started_s,
            calls=self._calls_of(process), tokens_in=process.tokens_in,
            tokens_out=process.tokens_out, max_tokens=process.max_tokens,
            context_tokens=sum(len(r.tokens) for r in requests) or process.held_tokens,
            window_tokens=process.window_tokens, weight=process.account.weight,
            quota_tokens=process.account.quota_tokens, quota_cells=process.account.quota_cells,
            requests=len(requests), parks=process.parks + sum(r.parks for r in requests),
            notes=process.notes, note_bytes=process.note_bytes,
            cpu_s=cpu_s, rss_bytes=rss_bytes, exit_code=process.exit_code,
            reason=process.reason, command=process.command, model=process.model,
            group=self._access.standings.group_of(process),
            waits=self._waits_of(process.pid) if process.living else [],
        )  # fmt: skip

    def _calls_of(self, process: Process) -> int:
        caller = self._callers.get(str(process.pid))
        return caller.calls if caller else process.calls

    async def _spawn(self, call: Pending, body: p.SpawnRequest) -> p.SpawnReply:
        self._access.check_spawn(call.asker, body)
        self._check_quotas(body.quota_tokens, body.quota_cells)
        behalf = tuple(self._table.caller(pid) for pid in call.asker.behalf if pid != OPERATOR)
        return await self._supervisor.spawn(call.caller.pid, call.caller.os_pid, body, behalf)

    async def _wait(self, call: Pending, body: p.RefRequest) -> p.ExitStatus:
        process = self._table.resolve(body.ref)
        if not process.living:
            return process.status()
        ended: Promise[p.ExitStatus] = Promise()
        process.on_exit.append(ended)

        def drop(_: AiosError) -> None:
            if ended in process.on_exit:  # else it is being told now
                process.on_exit.remove(ended)

        call.on_end(drop)
        return await ended

    def _signal(self, call: Pending, body: p.SignalRequest) -> Empty:
        process = self._target(call, body.ref)
        match body.action:
            case "kill":
                self._supervisor.kill(process, _by(call, "killed"))
            case "stop":
                self._supervisor.stop(process, body.grace_s, _by(call, "stopped"))
            case "pause":
                self._supervisor.pause(process)
                for pending in self._pending_of(process):
                    pending.freeze()
            case "resume":
                paused_s = self._supervisor.resume(process)
                for pending in self._pending_of(process):
                    pending.thaw(paused_s)
        return Empty()

    def _pending_of(self, process: Process) -> list[Pending]:
        caller = self._callers.get(str(process.pid))
        return list(caller.pending.values()) if caller else []

    def _renice(self, call: Pending, body: p.ReniceRequest) -> Empty:
        given = (body.nice, body.klass, body.weight, body.quota_tokens, body.quota_cells)
        if all(value is None for value in given):
            raise InvalidArgument(
                "renice changes nothing", "give a nice value, a class, a weight or a quota"
            )
        process = self._target(call, body.ref)
        wanted = any(value is not None for value in given[2:])
        self._access.check_operator(call.caller.pid, wanted, ACCOUNTS, "use: aios renice")
        self._check_quotas(body.quota_tokens or None, body.quota_cells or None)
        account = process.account
        account.weight = body.weight or account.weight
        if body.quota_tokens is not None:
            account.quota_tokens = body.quota_tokens or None
        if body.quota_cells is not None:
            account.quota_cells = body.quota_cells or None
        process.nice = process.nice if body.nice is None else body.nice
        process.klass = body.klass or process.klass
        for request in process.requests.values():
            request.nice, request.rank = process.nice, policy.RANKS[process.klass]
        self._work.reconsider()
        return Empty()

    def _check_quotas(self, tokens: int | None, cells: int | None) -> None:
        """Reject a quota below one quantum: the program could never run. Raises InvalidArgument."""
        quantum = self._work.quantum_tokens
        for name, value in (("quota_tokens", tokens), ("quota_cells", cells)):
            if value is not None and value < quantum:
                raise InvalidArgument(
                    f"{name} = {value} is less than one quantum of {quantum} tokens",
                    "raise the quota, or lower the quantum: aios sched set --quantum N",
                )

    def _log(self, call: Pending, body: p.RefRequest) -> p.LogReply:
        process = self._target(call, body.ref)
        if process.guest:
            raise NotFound(f"pid {process.pid} was started by hand; its output is in its terminal")
        return p.LogReply(process.pid, process.log, process.living)

    def _target(self, call: Pending, ref: str) -> Process:
        process = self._table.resolve(ref)
        action = call.call.name.removeprefix("proc.")
        self._access.check_agent(call.asker, action, process, call.call.effect)
        return process

    def _send(self, call: Pending, body: SendRequest) -> Empty:
        to = self._table.resolve(body.to, dead=False)
        self._access.check_agent(call.asker, "send", to, call.call.effect, body.body)
        size = len(msgpack.packb(body.body))
        if size > MAX_MESSAGE_BYTES:
            raise ResourceExhausted(
                f"a message of {size:,} bytes exceeds the limit of {MAX_MESSAGE_BYTES:,}",
                "send it in parts, or send the path of a file",
            )
        sender = self._table.get(call.caller.pid)
        name = sender.name if sender else "operator"
        to.mailbox.put(Letter(call.caller.pid, name, body.body, size))
        return Empty()

    async def _recv(self, call: Pending, body: RecvRequest) -> MailReply:
        process = self._table.caller(call.caller.pid)
        sender = self._table.resolve(body.sender).pid if body.sender else None
        receiver = Receiver(sender, Promise())
        call.on_end(lambda error: process.mailbox.leave(receiver))
        process.mailbox.take(receiver)
        letter = await receiver.letter
        return MailReply(letter.sender, letter.sender_name, letter.body)


def _by(call: Pending, verb: str) -> str:
    return f"{verb} by " + (f"pid {call.caller.pid}" if call.caller.pid else "the operator")


def _shown(process: Process) -> p.ProcessState:
    """Return the state for ``aios ps``: its life, or while it is alive that of its requests."""
    if process.life != "alive":
        return process.life
    phases = {request.phase for request in process.requests.values()}
    if "running" in phases:
        return "running"
    return "ready" if phases else "idle"
