"""Calls on models and contexts: ``llm.chat``, ``model.*`` and ``context.*``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from aios.hw.engine.engine import Message
from aios.hw.engine.sampling import SamplingParams
from aios.kernel.access.manager import AccessManager
from aios.kernel.access.principals import OPERATOR
from aios.kernel.context.saved import SavedContexts
from aios.kernel.loop.task import Outcome
from aios.kernel.memory.manager import MemoryManager
from aios.kernel.memory.recall import Recall, WithNotes
from aios.kernel.process.table import Process, ProcessTable
from aios.kernel.scheduler import policy
from aios.kernel.scheduler.budget import Budget
from aios.kernel.scheduler.request import Request
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import AiosError, InvalidArgument
from aios.syscalls.types.chat import (
    ChatReply,
    ChatRequest,
    ContextList,
    ContextName,
    ContextsOf,
    Recalled,
    SaveRequest,
)
from aios.syscalls.types.common import Effect, Empty
from aios.syscalls.types.kernel import ModelList, ModelRequest

from .info import describe
from .model import Model
from .models import Models


class ModelCalls:
    """Generations with their budgets, the models that serve them, and saved contexts."""

    def __init__(
        self,
        table: ProcessTable,
        access: AccessManager,
        models: Models,
        saved: SavedContexts,
        memory: MemoryManager,
        recall: Recall,
    ) -> None:
        self._table, self._access, self._models, self._saved = table, access, models, saved
        self._memory, self._recall = memory, recall
        self._request_ids = 0
        self.handlers: dict[str, Handler] = {
            "llm.chat": self._chat,
            "model.list": self._model_list,
            "model.load": self._model_load,
            "model.unload": self._model_unload,
            "context.save": self._context_save,
            "context.restore": self._context_restore,
            "context.list": self._context_list,
            "context.remove": self._context_remove,
        }

    def _chat(self, call: Pending, body: ChatRequest) -> None:
        if call.caller.pid == OPERATOR:
            raise InvalidArgument("the operator has no process to charge", "run an agent: aios run")
        process = self._table.caller(call.caller.pid)
        if (body.messages is None) == (body.prompt is None):
            raise InvalidArgument("give exactly one of messages and prompt")
        if body.json_schema is not None and body.grammar is not None:
            raise InvalidArgument("give at most one of json_schema and grammar")
        if not body.recall:
            call.defer(lambda error: None)
            self._generate(call, process, body, [])
            return

        def recalled(outcome: Outcome[WithNotes]) -> None:
            if call.ended:
                return
            try:
                request, notes = outcome.result()
                self._generate(call, process, request, notes)
            except AiosError as error:
                call.fail(error)

        call.defer(lambda error: None)
        self._recall.into(call, body, recalled)

    def _generate(
        self, call: Pending, process: Process, body: ChatRequest, recalled: list[Recalled]
    ) -> None:
        model = self._models.find(body.model or process.model)
        self._access.check(call.asker, "model", "use", _file_name(model))
        budget = Budget(self._table.lineage(process))
        allowed = budget.take(body.max_tokens)
        if not allowed:
            raise budget.exceeded()
        request = self._request(call, process, body, allowed)
        request.budget = budget
        request.on_done = self._finisher(call, process, request, budget, model, recalled)
        try:
            call.defer(lambda error: model.cancel(request, error))
            process.requests[request.id] = request
            _note_window(process, model)
            model.submit(request)
        except Exception:
            process.requests.pop(request.id, None)
            budget.give_back(budget.taken)
            raise
        if process.life == "paused":  # while its notes were looked for
            model.hold(request)

    def _request(self, call: Pending, process: Process, body: ChatRequest, allowed: int) -> Request:
        self._request_ids += 1
        messages = body.messages
        return Request(
            id=self._request_ids,
            pid=process.pid,
            name=process.name,
            rank=policy.RANKS[process.klass],
            nice=process.nice,
            account=process.account,
            params=_sampling(body, allowed, process.account.quota_cells),
            messages=[Message(m.role, m.content) for m in messages] if messages else None,
            prompt=body.prompt,
            received_s=time.monotonic(),
            on_text=call.chunk if body.stream else None,
            on_done=lambda outcome: None,
            expected_tokens=body.expected_tokens,
            window_policy=body.window,
        )

    def _finisher(
        self,
        call: Pending,
        process: Process,
        request: Request,
        budget: Budget,
        model: Model,
        recalled: list[Recalled],
    ) -> Callable[[ChatReply | AiosError], None]:
        said = _said(request)

        def done(outcome: ChatReply | AiosError) -> None:
            generated = len(request.tokens) - request.prompt_tokens
            process.requests.pop(request.id, None)
            budget.give_back(budget.taken - generated - request.helped_tokens)
            process.tokens_in += request.prompt_tokens + request.helped_prompt_tokens
            process.tokens_out += generated + request.helped_tokens
            process.parks += request.parks
            _note_window(process, model)
            if not isinstance(outcome, AiosError) and process.living:
                process.last_tokens, process.last_model = request.tokens, model.name
                process.held_tokens = len(request.tokens)
            if isinstance(outcome, AiosError):
                call.fail(outcome)
            else:
                self._memory.record(process, said, outcome.text)
                call.reply(msgspec.structs.replace(outcome, recalled=recalled))

        return done

    def _model_list(self, _: Pending, __: Empty) -> ModelList:
        return ModelList([describe(model) for model in self._models])

    def _model_load(self, call: Pending, body: ModelRequest) -> None:
        model = self._models.find(body.name)

        def ready(error: AiosError | None) -> None:
            if error:
                call.fail(error)
            else:
                call.reply(describe(model))

        call.defer(lambda error: None)
        model.core.when_ready(ready)

    def _model_unload(self, _: Pending, body: ModelRequest) -> Empty:
        self._models.unload(self._models.find(body.name))
        return Empty()

    def _context_save(self, call: Pending, body: SaveRequest) -> None:
        process, model = self._of_last_call(call)
        agent, name = self._context(call, body.name, "write", "reversible")
        call.defer(lambda error: None)
        self._saved.save(agent, model, process.last_tokens, name, body.messages, _teller(call))

    def _context_restore(self, call: Pending, body: ContextName) -> None:
        _, model = self._of_last_call(call)
        agent, name = self._context(call, body.name, "read", "read")
        call.defer(lambda error: None)
        self._saved.restore(agent, model, name, _teller(call))

    def _context_list(self, call: Pending, body: ContextsOf) -> None:
        tell = _teller(call)
        agent, _ = self._context(call, f"{body.agent}/" if body.agent else "", "read", "read")
        call.defer(lambda error: None)
        self._saved.list(
            agent, lambda got: tell(ContextList(got) if isinstance(got, list) else got)
        )

    def _context_remove(self, call: Pending, body: ContextName) -> None:
        tell = _teller(call)
        agent, name = self._context(call, body.name, "delete", "irreversible")
        call.defer(lambda error: None)
        self._saved.remove(agent, name, lambda got: tell(got or Empty()))

    def _context(self, call: Pending, ref: str, action: str, effect: Effect) -> tuple[str, str]:
        """Whose a saved context is, and its name there, when the caller may do this to it. Raises
        AiosError."""
        pid = call.caller.pid
        own = self._table.caller(pid).name if pid != OPERATOR else ""
        agent, _, name = ref.rpartition("/")
        agent = agent or own
        if not agent:
            raise InvalidArgument("the operator has no contexts of its own", "name an agent's")
        asked = f"own/{name}" if agent == own else f"other/{agent}/{name}"
        self._access.check(call.asker, "context", action, asked, effect)
        return agent, name

    def _of_last_call(self, call: Pending) -> tuple[Process, Model]:
        if call.caller.pid == OPERATOR:
            raise InvalidArgument("the operator has no conversation", "run an agent: aios run")
        process = self._table.caller(call.caller.pid)
        return process, self._models.find(process.last_model or process.model)


def _teller(call: Pending) -> Callable[[msgspec.Struct | AiosError], None]:
    """Ends the call with what it gets."""

    def tell(result: msgspec.Struct | AiosError) -> None:
        if isinstance(result, AiosError):
            call.fail(result)
        else:
            call.reply(result)

    return tell


def _note_window(process: Process, model: Model) -> None:
    if model.info:
        process.window_tokens = model.info.context_tokens


def _said(request: Request) -> str:
    """What is new in a request: its last message, or the raw prompt."""
    if not request.messages:
        return request.prompt or ""
    return request.messages[-1].content


def _file_name(model: Model) -> str:
    """The model's name in rules on models; the same however it was asked for."""
    return Path(model.path).stem if model.path.endswith(".gguf") else model.path


def _sampling(body: ChatRequest, budget: int, cells: int | None) -> SamplingParams:
    seed = body.seed if body.seed is not None else int.from_bytes(os.urandom(7), "little")
    return SamplingParams(
        max_tokens=budget, seed=seed, temperature=body.temperature, top_p=body.top_p,
        top_k=body.top_k, min_p=body.min_p, repeat_penalty=body.repeat_penalty,
        presence_penalty=body.presence_penalty, frequency_penalty=body.frequency_penalty,
        stop=tuple(body.stop), json_schema=body.json_schema, grammar=body.grammar,
        max_context=cells,
    )  # fmt: skip
