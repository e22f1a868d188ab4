"""One handler for each system call: the short way from a checked request to the part that acts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgpack
import psutil

from aios.hw import messages as core
from aios.hw.engine import Message
from aios.syscalls import types as t
from aios.syscalls.errors import (
    AiosError,
    BudgetExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)

from . import policy
from .access import AccessManager
from .kvstore import KvStore
from .mail import Letter, Receiver
from .model import Model
from .models import Models
from .process import OPERATOR, Process, ProcessTable
from .request import Request
from .saved import SavedContexts
from .scheduler import Settings
from .supervisor import Supervisor
from .trap import Caller, Handler, Pending, Trap

MAX_MESSAGE_BYTES = 1 << 20
_OPERATORS_TO_GIVE = "weight and quotas are of a whole program, and the operator's to give"


class Calls:
    """The kernel as its callers see it. ``handlers`` has a row for every row of the table."""

    def __init__(
        self,
        table: ProcessTable,
        access: AccessManager,
        supervisor: Supervisor,
        settings: Settings,
        models: Models,
        store: KvStore,
        saved: SavedContexts,
        shutdown: Callable[[], None],
        runtime: Path,
    ) -> None:
        self._table, self._access, self._supervisor = table, access, supervisor
        self._settings, self._models, self._shutdown = settings, models, shutdown
        self._store, self._saved = store, saved
        self._runtime = runtime
        self._started_s = time.monotonic()
        self._request_ids = 0
        self.trap: Trap | None = None
        self.callers: dict[str, Caller] = {}
        self.handlers: dict[str, Handler] = {
            "getpid": self._getpid,
            "cancel": self._cancel,
            "llm.chat": self._chat,
            "model.list": self._model_list,
            "model.load": self._model_load,
            "model.unload": self._model_unload,
            "context.save": self._context_save,
            "context.restore": self._context_restore,
            "context.list": self._context_list,
            "context.remove": self._context_remove,
            "proc.ps": self._ps,
            "proc.spawn": self._spawn,
            "proc.wait": self._wait,
            "proc.signal": self._signal,
            "proc.renice": self._renice,
            "proc.log": self._log,
            "ipc.send": self._send,
            "ipc.recv": self._recv,
            "kernel.status": self._status,
            "kernel.shutdown": self._stop,
            "kernel.check": self._check,
            "sched.set": self._sched,
            "trace.read": self._trace,
        }

    # ------------------------------------------------------------------ processes

    def _me(self, call: Pending) -> Process:
        process = self._table.get(call.caller.pid)
        if process is None:
            raise NotFound(f"pid {call.caller.pid} has ended")
        return process

    def _getpid(self, call: Pending, _: t.Empty) -> t.Pid:
        if call.caller.pid == OPERATOR:
            return t.Pid(OPERATOR, "operator", OPERATOR)
        process = self._me(call)
        return t.Pid(process.pid, process.name, process.parent)

    def _cancel(self, call: Pending, body: t.CancelRequest) -> t.Empty:
        assert self.trap
        self.trap.cancel(call, body.call_id)
        return t.Empty()

    def _ps(self, _: Pending, body: t.PsRequest) -> t.ProcessList:
        chosen = self._table.all() if body.all else self._table.living()
        return t.ProcessList([self._row(process) for process in chosen])

    def _row(self, process: Process) -> t.ProcessInfo:
        cpu_s, rss_bytes = _host_usage(process)
        until_s = process.ended_s or time.monotonic()
        requests = process.requests.values()
        return t.ProcessInfo(
            pid=process.pid, parent=process.parent, name=process.name, state=_shown(process),
            klass=process.klass, nice=process.nice, os_pid=process.os_pid,
            started_unix=process.started_unix, age_s=until_s - process.started_s,
            calls=self._calls_of(process), tokens_in=process.tokens_in,
            tokens_out=process.tokens_out, max_tokens=process.max_tokens,
            context_tokens=(sum(len(request.tokens) for request in requests)
                            or len(process.last_tokens)),
            window_tokens=process.window_tokens, weight=process.account.weight,
            quota_tokens=process.account.quota_tokens, quota_cells=process.account.quota_cells,
            requests=len(requests), parks=process.parks + sum(r.parks for r in requests),
            cpu_s=cpu_s, rss_bytes=rss_bytes, exit_code=process.exit_code,
            reason=process.reason, command=process.command, model=process.model,
        )  # fmt: skip

    def _calls_of(self, process: Process) -> int:
        caller = self.callers.get(str(process.pid))
        return caller.calls if caller else process.calls

    def _spawn(self, call: Pending, body: t.SpawnRequest) -> None:
        def started(result: t.SpawnReply | AiosError) -> None:
            if isinstance(result, AiosError):
                call.fail(result)
            else:
                call.reply(result)

        if call.caller.pid != OPERATOR and (
            body.weight != 1.0 or body.quota_tokens is not None or body.quota_cells is not None
        ):
            raise PermissionDenied(_OPERATORS_TO_GIVE, "start the program with: aios run --weight")
        self._check_quotas(body.quota_tokens, body.quota_cells)
        call.defer(lambda error: None)
        self._supervisor.spawn(call.caller.pid, call.caller.os_pid, body, started)

    def _wait(self, call: Pending, body: t.RefRequest) -> t.ExitStatus | None:
        process = self._table.resolve(body.ref)
        if not process.living:
            return process.status()
        tell: Callable[[t.ExitStatus], None] = call.reply
        call.defer(lambda error: process.on_exit.remove(tell))
        process.on_exit.append(tell)
        return None

    def _signal(self, call: Pending, body: t.SignalRequest) -> t.Empty:
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
        return t.Empty()

    def _pending_of(self, process: Process) -> list[Pending]:
        caller = self.callers.get(str(process.pid))
        return list(caller.pending.values()) if caller else []

    def _renice(self, call: Pending, body: t.ReniceRequest) -> t.Empty:
        given = (body.nice, body.klass, body.weight, body.quota_tokens, body.quota_cells)
        if all(value is None for value in given):
            raise InvalidArgument(
                "renice changes nothing", "give a nice value, a class, a weight or a quota"
            )
        process = self._target(call, body.ref)
        if call.caller.pid != OPERATOR and any(value is not None for value in given[2:]):
            raise PermissionDenied(_OPERATORS_TO_GIVE, "as the operator, use: aios renice")
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
        for model in self._models:
            model.reconsider()
        return t.Empty()

    def _check_quotas(self, tokens: int | None, cells: int | None) -> None:
        """A quota that no slice fits in would stop the program for good."""
        quantum = max((model.scheduler.quantum for model in self._models), default=1)
        for name, value in (("quota_tokens", tokens), ("quota_cells", cells)):
            if value is not None and value < quantum:
                raise InvalidArgument(
                    f"{name} = {value} is less than one quantum of {quantum} tokens",
                    "give more, or make the quantum smaller: aios sched set --quantum N",
                )

    def _log(self, call: Pending, body: t.RefRequest) -> t.LogReply:
        process = self._target(call, body.ref)
        if process.guest:
            raise NotFound(f"pid {process.pid} was started by hand; its output is where it runs")
        return t.LogReply(process.pid, process.log, process.living)

    def _target(self, call: Pending, ref: str) -> Process:
        process = self._table.resolve(ref)
        self._access.check_target(call.caller.pid, call.call, process)
        return process

    # ------------------------------------------------------------------ messages

    def _send(self, call: Pending, body: t.SendRequest) -> t.Empty:
        to = self._table.resolve(body.to, dead=False)
        size = len(msgpack.packb(body.body))
        if size > MAX_MESSAGE_BYTES:
            raise ResourceExhausted(
                f"a message of {size:,} bytes exceeds the limit of {MAX_MESSAGE_BYTES:,}",
                "send it in parts, or a file's path",
            )
        sender = self._table.get(call.caller.pid)
        name = sender.name if sender else "operator"
        to.mailbox.put(Letter(call.caller.pid, name, body.body, size))
        return t.Empty()

    def _recv(self, call: Pending, body: t.RecvRequest) -> None:
        process = self._me(call)
        sender = self._table.resolve(body.sender).pid if body.sender else None

        def deliver(letter: Letter) -> None:
            call.reply(t.MailReply(letter.sender, letter.sender_name, letter.body))

        receiver = Receiver(sender, deliver)
        call.defer(lambda error: process.mailbox.leave(receiver))
        process.mailbox.take(receiver)

    # ------------------------------------------------------------------ the model

    def _chat(self, call: Pending, body: t.ChatRequest) -> None:
        if call.caller.pid == OPERATOR:
            raise InvalidArgument("the operator has no process to charge", "run an agent: aios run")
        process = self._me(call)
        if (body.messages is None) == (body.prompt is None):
            raise InvalidArgument("give exactly one of messages and prompt")
        if body.json_schema is not None and body.grammar is not None:
            raise InvalidArgument("give at most one of json_schema and grammar")
        model = self._models.find(body.model or process.model)
        budget = self._budget(process, body.max_tokens)
        request = self._request(call, process, body, budget)
        request.on_done = self._finisher(call, process, request, budget, model)
        call.defer(lambda error: model.cancel(request, error))
        process.requests[request.id] = request
        lineage = list(self._table.lineage(process))
        for member in lineage:
            member.budget_used += budget
        try:
            model.submit(request)
        except AiosError:
            del process.requests[request.id]
            for member in lineage:
                member.budget_used -= budget
            raise

    def _request(
        self, call: Pending, process: Process, body: t.ChatRequest, budget: int
    ) -> Request:
        self._request_ids += 1
        messages = body.messages
        return Request(
            id=self._request_ids,
            pid=process.pid,
            name=process.name,
            rank=policy.RANKS[process.klass],
            nice=process.nice,
            account=process.account,
            params=_sampling(body, budget, process.account.quota_cells),
            messages=[Message(m.role, m.content) for m in messages] if messages else None,
            prompt=body.prompt,
            received_s=time.monotonic(),
            on_text=call.chunk if body.stream else None,
            on_done=lambda outcome: None,
            expected_tokens=body.expected_tokens,
            window_policy=body.window,
        )

    def _finisher(
        self, call: Pending, process: Process, request: Request, budget: int, model: Model
    ) -> Callable[[t.ChatReply | AiosError], None]:
        lineage = list(self._table.lineage(process))

        def done(outcome: t.ChatReply | AiosError) -> None:
            generated = len(request.tokens) - request.prompt_tokens
            process.requests.pop(request.id, None)
            for member in lineage:
                member.budget_used -= budget - generated
            process.tokens_in += request.prompt_tokens
            process.tokens_out += generated
            process.parks += request.parks
            process.window_tokens = model.info.context_tokens if model.info else 0
            if not isinstance(outcome, AiosError):
                process.last_tokens, process.last_model = request.tokens, model.name
            if isinstance(outcome, AiosError):
                call.fail(outcome)
            else:
                call.reply(outcome)

        return done

    def _budget(self, process: Process, wanted: int) -> int:
        """Tokens that this call may generate: what the process and its ancestors have left."""
        for member in self._table.lineage(process):
            if member.max_tokens is None:
                continue
            left = member.max_tokens - member.budget_used
            if left <= 0:
                raise BudgetExceeded(
                    f"pid {member.pid} ({member.name}) and what it started have used or reserved "
                    f"all of its {member.max_tokens:,} tokens",
                    "start it with a larger --max-tokens",
                )
            wanted = min(wanted, left)
        return wanted

    def _model_list(self, _: Pending, __: t.Empty) -> t.ModelList:
        return t.ModelList([model.describe() for model in self._models])

    def _model_load(self, call: Pending, body: t.ModelRequest) -> None:
        model = self._models.find(body.name)

        def ready(error: AiosError | None) -> None:
            if error:
                call.fail(error)
            else:
                call.reply(model.describe())

        call.defer(lambda error: None)
        model.when_ready(ready)

    def _model_unload(self, _: Pending, body: t.ModelRequest) -> t.Empty:
        self._models.unload(self._models.find(body.name))
        return t.Empty()

    # ------------------------------------------------------------------ contexts

    def _context_save(self, call: Pending, body: t.SaveRequest) -> None:
        process = self._me(call)
        model = self._models.find(process.last_model or process.model)

        def done(result: t.NamedContext | AiosError) -> None:
            if isinstance(result, AiosError):
                call.fail(result)
            else:
                call.reply(result)

        call.defer(lambda error: None)
        self._saved.save(process, model, body.name, body.messages, done)

    def _context_restore(self, call: Pending, body: t.ContextName) -> t.ContextReply:
        process = self._me(call)
        model = self._models.find(process.last_model or process.model)
        return t.ContextReply(*self._saved.restore(process, model, body.name))

    def _context_list(self, call: Pending, _: t.Empty) -> t.ContextList:
        return t.ContextList(self._saved.list(self._me(call)))

    def _context_remove(self, call: Pending, body: t.ContextName) -> t.Empty:
        self._saved.remove(self._me(call), body.name)
        return t.Empty()

    # ------------------------------------------------------------------ the kernel

    def _status(self, _: Pending, __: t.Empty) -> t.KernelStatus:
        assert self.trap
        return t.KernelStatus(
            version=release(),
            os_pid=os.getpid(),
            uptime_s=time.monotonic() - self._started_s,
            runtime_dir=str(self._runtime),
            policy=self._settings.policy.name,
            quantum_tokens=self._settings.quantum_tokens or 0,
            processes=len(self._table),
            calls=self.trap.calls,
            calls_refused=self.trap.refused,
            models=[model.describe() for model in self._models],
        )

    def _stop(self, call: Pending, _: t.Empty) -> t.Empty:
        self._shutdown()
        return t.Empty()

    def _check(self, _: Pending, __: t.Empty) -> t.CheckReply:
        problems = self._table.check() + self._store.check()
        for model in self._models:
            problems += model.check()
        return t.CheckReply(problems, len(os.listdir("/proc/self/fd")))

    def _sched(self, _: Pending, body: t.SchedRequest) -> t.SchedReply:
        settings = self._settings
        chosen = policy.find(body.policy) if body.policy is not None else settings.policy
        settings.policy = chosen
        if body.quantum_tokens is not None:
            settings.quantum_tokens = body.quantum_tokens or None
        if body.chunk_tokens is not None:
            settings.chunk_tokens = body.chunk_tokens or None
        settings.width = body.width or settings.width
        for model in self._models:
            model.reconsider()
        return t.SchedReply(
            settings.policy.name, {name: p.promise for name, p in policy.POLICIES.items()},
            settings.quantum_tokens or 0, settings.width, settings.chunk_tokens or 0,
        )  # fmt: skip

    def _trace(self, _: Pending, body: t.TraceRequest) -> t.TraceReply:
        models = list(self._models)
        reply = t.TraceReply(
            requests=[record for model in models for record in model.records],
            slices=[record for model in models for record in model.scheduler.records],
            dropped=sum(model.scheduler.records_dropped for model in models),
        )
        if body.clear:
            for model in models:
                model.records.clear()
                model.scheduler.records.clear()
        return reply


def release() -> str:
    """The installed version."""
    try:
        return version("aiosd")
    except PackageNotFoundError:
        return "unknown"


def _sampling(body: t.ChatRequest, budget: int, cells: int | None) -> core.SamplingParams:
    seed = body.seed if body.seed is not None else int.from_bytes(os.urandom(7), "little")
    return core.SamplingParams(
        max_tokens=budget, seed=seed, temperature=body.temperature, top_p=body.top_p,
        top_k=body.top_k, min_p=body.min_p, repeat_penalty=body.repeat_penalty,
        presence_penalty=body.presence_penalty, frequency_penalty=body.frequency_penalty,
        stop=tuple(body.stop), json_schema=body.json_schema, grammar=body.grammar,
        max_context=cells,
    )  # fmt: skip


def _by(call: Pending, verb: str) -> str:
    return f"{verb} by " + (f"pid {call.caller.pid}" if call.caller.pid else "the operator")


def _shown(process: Process) -> t.ProcessState:
    """The state that ``aios ps`` shows: its life, and while it lives what the model does for it."""
    if process.life != "alive":
        return process.life
    phases = {request.phase for request in process.requests.values()}
    if "running" in phases:
        return "running"
    return "ready" if phases else "idle"


def _host_usage(process: Process) -> tuple[float, int]:
    """CPU seconds and resident bytes of the agent's own host process; zeros when it is gone."""
    if not process.living or not process.os_pid:
        return 0.0, 0
    try:
        host = psutil.Process(process.os_pid)
        times = host.cpu_times()
        return times.user + times.system, host.memory_info().rss
    except psutil.Error:
        return 0.0, 0
