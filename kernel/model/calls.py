"""Calls on models and contexts: ``llm.chat``, ``model.*`` and ``context.*``."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import get_args

import msgspec

from aios.hw.chat.conversation import Call, Conversation, Message, Tool
from aios.hw.engine.engine import Constraint, ConstraintKind
from aios.hw.engine.sampling import SamplingParams
from aios.hw.models import model_files
from aios.kernel.access.manager import AccessManager
from aios.kernel.access.principals import OPERATOR
from aios.kernel.context.saved_contexts import SavedContexts
from aios.kernel.memory.manager import MemoryManager
from aios.kernel.memory.recall import Recall
from aios.kernel.process.table import Process, ProcessTable
from aios.kernel.scheduler import policy
from aios.kernel.scheduler.budget import Budget
from aios.kernel.scheduler.request import Request
from aios.kernel.tools.registry import Registry
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import Cancelled, InvalidArgument
from aios.syscalls.types.chat import (
    ChatReply,
    ChatRequest,
    ChatTool,
    ContextList,
    ContextName,
    ContextReply,
    ContextsOf,
    NamedContext,
    Recalled,
    SaveRequest,
    ToolChoice,
)
from aios.syscalls.types.chat import Message as ChatMessage
from aios.syscalls.types.common import Effect, Empty
from aios.syscalls.types.kernel import ModelInfo, ModelList, ModelRequest
from aios.syscalls.types.tool import ToolSpec

from .info import describe
from .model import Model
from .models import Models

CONSTRAINTS: tuple[ConstraintKind, ...] = get_args(ConstraintKind)


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
        registry: Registry,
    ) -> None:
        self._table, self._access, self._models, self._saved = table, access, models, saved
        self._memory, self._recall, self._registry = memory, recall, registry
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

    async def _chat(self, call: Pending, body: ChatRequest) -> ChatReply:
        if call.caller.pid == OPERATOR:
            raise InvalidArgument("the operator has no process to charge", "run an agent: aios run")
        process = self._table.caller(call.caller.pid)
        if (body.messages is None) == (body.prompt is None):
            raise InvalidArgument("give exactly one of messages and prompt")
        if _constraint(body) and body.tools and body.tool_choice != "none":
            raise InvalidArgument(
                "a text held to a schema or grammar cannot call tools",
                'give tools or a schema, or tool_choice="none"',
            )
        tools = await self._tools_of(body)
        if call.ended:
            raise Cancelled("the call ended while its tools were looked up")
        notes: list[Recalled] = []
        if body.recall:
            body, notes = await self._recall.into(call, body)
            if call.ended:
                raise Cancelled("the call ended while notes were looked for")
        model = self._models.find(body.model or process.model)
        self._access.check(call.asker, "model", "use", _file_name(model))
        request = self._request(call, process, body, tools)
        said = _said(request)  # summarising may replace the messages
        reply = await self._generate(call, process, model, request)
        self._memory.record(process, said, reply.text)
        return msgspec.structs.replace(reply, recalled=notes)

    async def _tools_of(self, body: ChatRequest) -> list[Tool]:
        """Return the tools that the model may call. Raises NotFound."""
        if any(isinstance(each, str) for each in body.tools):
            await self._registry.ready()
        return [
            _tool(self._registry.find(each).spec, each) if isinstance(each, str) else _tool(each)
            for each in body.tools
        ]

    def _request(
        self, call: Pending, process: Process, body: ChatRequest, tools: list[Tool]
    ) -> Request:
        """Make the request, with tokens from the budgets. Raises BudgetExceeded."""
        budget = Budget(self._table.lineage(process))
        allowed = budget.take(body.max_tokens)
        if not allowed:
            raise budget.exceeded()
        self._request_ids += 1
        talk = _conversation(body, tools) if body.messages is not None else None
        return Request(
            id=self._request_ids, pid=process.pid, name=process.name,
            rank=policy.RANKS[process.klass], nice=process.nice, account=process.account,
            params=_sampling(body, allowed, process.account.quota_cells),
            talk=talk, prompt=body.prompt, on_text=call.chunk if body.stream else None,
            budget=budget, expected_tokens=body.expected_tokens, window_policy=body.window,
        )  # fmt: skip

    async def _generate(
        self, call: Pending, process: Process, model: Model, request: Request
    ) -> ChatReply:
        """Have the model do a request; charge what it used, once, however it ends."""
        call.on_end(lambda error: model.cancel(request, error))
        process.requests[request.id] = request
        _note_window(process, model)
        try:
            model.submit(request)
            if process.life == "paused":  # while its notes were looked for
                model.hold(request)
            reply = await request.result
        finally:
            _settle(process, request)
            _note_window(process, model)
        if process.living:
            process.last_tokens, process.last_model = request.tokens, model.name
            process.held_tokens = len(request.tokens)
        return reply

    def _model_list(self, _: Pending, __: Empty) -> ModelList:
        return ModelList([describe(model, self._models.jobs) for model in self._models])

    async def _model_load(self, call: Pending, body: ModelRequest) -> ModelInfo:
        model = self._models.find(body.name)
        await model.core.when_ready()
        return describe(model, self._models.jobs)

    def _model_unload(self, _: Pending, body: ModelRequest) -> Empty:
        self._models.unload(self._models.find(body.name))
        return Empty()

    async def _context_save(self, call: Pending, body: SaveRequest) -> NamedContext:
        process, model = self._of_last_call(call)
        agent, name = self._context(call, body.name, "write", "reversible")
        return await self._saved.save(
            agent, model.saved_kv, process.last_tokens, name, body.messages
        )

    async def _context_restore(self, call: Pending, body: ContextName) -> ContextReply:
        _, model = self._of_last_call(call)
        agent, name = self._context(call, body.name, "read", "read")
        return await self._saved.restore(agent, model.saved_kv, name)

    async def _context_list(self, call: Pending, body: ContextsOf) -> ContextList:
        agent, _ = self._context(call, f"{body.agent}/" if body.agent else "", "read", "read")
        return ContextList(await self._saved.list(agent))

    async def _context_remove(self, call: Pending, body: ContextName) -> Empty:
        agent, name = self._context(call, body.name, "delete", "irreversible")
        await self._saved.remove(agent, name)
        return Empty()

    def _context(self, call: Pending, ref: str, action: str, effect: Effect) -> tuple[str, str]:
        """Return the agent that owns a saved context, and its name there, if the caller may do this
        to it. Raises AiosError."""
        pid = call.caller.pid
        own = self._table.caller(pid).name if pid != OPERATOR else ""
        agent, _, name = ref.rpartition("/")
        agent = agent or own
        if not agent:
            raise InvalidArgument(
                "the operator has no contexts of its own", "name one of an agent: AGENT/NAME"
            )
        asked = f"own/{name}" if agent == own else f"other/{agent}/{name}"
        self._access.check(call.asker, "context", action, asked, effect)
        return agent, name

    def _of_last_call(self, call: Pending) -> tuple[Process, Model]:
        if call.caller.pid == OPERATOR:
            raise InvalidArgument("the operator has no conversation", "run an agent: aios run")
        process = self._table.caller(call.caller.pid)
        return process, self._models.find(process.last_model or process.model)


def _settle(process: Process, request: Request) -> None:
    """Charge the process for a request that has ended; give back what was not generated."""
    assert request.budget
    generated = len(request.tokens) - request.prompt_tokens
    process.requests.pop(request.id, None)
    request.budget.give_back(request.budget.taken - generated - request.helped_tokens)
    process.tokens_in += request.prompt_tokens + request.helped_prompt_tokens
    process.tokens_out += generated + request.helped_tokens
    process.parks += request.parks


def _note_window(process: Process, model: Model) -> None:
    if model.info:
        process.window_tokens = model.info.context_tokens


def _said(request: Request) -> str:
    """Return what is new in a request: its last message, or the raw prompt."""
    if not request.messages:
        return request.prompt or ""
    return request.messages[-1].content


def _conversation(body: ChatRequest, tools: list[Tool]) -> Conversation:
    """Return the request's messages for the core. Raises InvalidArgument."""
    messages = [_message(index, each) for index, each in enumerate(body.messages or [])]
    date = body.date or time.strftime("%Y-%m-%d")
    try:
        datetime.date.fromisoformat(date)
    except ValueError:
        raise InvalidArgument(f"date {date} is no day of the calendar") from None
    return Conversation(
        messages=messages, tools=tools, choice=_choice(body, tools),
        parallel=body.parallel_tool_calls, own_format=body.tool_format == "own",
        thinking=body.thinking, date=date,
    )  # fmt: skip


def _tool(declared: ChatTool | ToolSpec, name: str = "") -> Tool:
    return Tool(name or declared.name, declared.description, declared.parameters)


def _choice(body: ChatRequest, tools: list[Tool]) -> str:
    """Return the choice of tools as the core knows it. Raises InvalidArgument."""
    choice, names = body.tool_choice, [tool.name for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgument(f"tools has {twice} twice", "give each tool once")
    if isinstance(choice, ToolChoice):
        if choice.name not in names:
            raise InvalidArgument(f"tool_choice names {choice.name}, which is not in tools")
        return f"={choice.name}"
    if choice == "required" and not names:
        raise InvalidArgument('tool_choice is "required", but there are no tools', "give tools")
    return choice


def _message(index: int, message: ChatMessage) -> Message:
    parts = message.content if isinstance(message.content, list) else []
    kinds = [part.type for part in parts if part.type != "text"]
    if kinds:
        raise InvalidArgument(
            f"messages[{index}] has content of the type {kinds[0]!r}; models here read text only",
            "send parts of the type 'text'",
        )
    calls = [Call(call.id, call.name, call.arguments_json) for call in message.tool_calls]
    return Message(message.role, message.text, message.name, calls, message.tool_call_id)


def _file_name(model: Model) -> str:
    """Return the model's name in rules, which does not depend on how it was asked for."""
    return model.path if model.path.startswith("fake") else model_files.stem(Path(model.path))


def _constraint(body: ChatRequest) -> Constraint | None:
    """Return what holds the text. Raises InvalidArgument for more than one."""
    given = {kind: getattr(body, kind) for kind in CONSTRAINTS if getattr(body, kind) is not None}
    if len(given) > 1:
        raise InvalidArgument(
            f"give at most one of {', '.join(CONSTRAINTS)}; got {', '.join(given)}"
        )
    for kind, value in given.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return Constraint(kind, text)
    return None


def _sampling(body: ChatRequest, budget: int, cells: int | None) -> SamplingParams:
    seed = body.seed if body.seed is not None else int.from_bytes(os.urandom(7), "little")
    return SamplingParams(
        max_tokens=budget, seed=seed, temperature=body.temperature, top_p=body.top_p,
        top_k=body.top_k, min_p=body.min_p, repeat_penalty=body.repeat_penalty,
        presence_penalty=body.presence_penalty, frequency_penalty=body.frequency_penalty,
        stop=tuple(body.stop), constraint=_constraint(body), max_context=cells,
    )  # fmt: skip
