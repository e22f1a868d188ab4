"""``aios.act``: give the model a task, and tools to do it with.

    result = aios.act("What is 17 * 23?", tools=["calculate"])
    print(result.text, [use.tool for step in result.steps for use in step.uses])

In each turn the model writes calls or an answer. A grammar enforces the tools' schemas, so even a
small model writes nothing invalid. A turn cut off by its token limit is not carried out: it is
retried with a schema whose texts fit. The results of the calls become the next message; the context
grows at its end only, so its KV is reused. Steps and tokens are limited.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from aios.syscalls.errors import (
    AiosError,
    Cancelled,
    ContextOverflow,
    DeadlineExceeded,
    InvalidArgument,
    KernelUnavailable,
)
from aios.syscalls.types.chat import ChatReply, Message, Usage
from aios.syscalls.types.tool import ToolInfo, ToolSpec

from . import act_schema, sdk, tools
from .tool import Tool

if TYPE_CHECKING:
    from typing import Unpack

MAX_CALLS = 4
"""Limit on the calls of one turn."""
_MAX_CHARS = 240
"""Limit on the characters of a string, in the first try of a turn."""
_MAX_RESULT_CHARS = 2000
"""Limit on the characters of one result in the prompt."""
_SYSTEM = """You do the user's task with tools. Write JSON only.
To call tools: {{"calls": [{{"tool": NAME, "arguments": {{...}}}}]}}
When you know the answer: {{"answer": TEXT}}
Tools:
{tools}"""


@dataclass(frozen=True)
class ToolUse:
    """One call by the model: its result, or the error that was reported to the model."""

    tool: str
    arguments: dict[str, Any]
    result: Any = None
    error: str = ""


@dataclass(frozen=True)
class Step:
    """One turn: the model's text, its calls and their results, and its cost."""

    text: str
    uses: list[ToolUse]
    usage: Usage
    tries: int = 1


@dataclass
class ActResult:
    """The outcome of a task. ``finish``: ``answer``; ``tokens`` or ``context`` if there was no room
    for another turn."""

    text: str = ""
    finish: Literal["answer", "tokens", "context"] = "answer"
    steps: list[Step] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    tokens: int = 0
    """Total number of generated tokens."""


def act(
    task: str,
    tools: Sequence[str | tools.Function] = (),
    *,
    max_steps: int = 6,
    budget_tokens: int = 2048,
    step_tokens: int = 384,
    timeout: float = 600.0,
    **options: Unpack[sdk.ChatOptions],
) -> ActResult:
    """Have the model do a task with tools: names of the kernel's tools, and the caller's own
    functions.

    Takes at most ``max_steps`` turns, of which the last is an answer, and generates at most
    ``budget_tokens`` tokens, ``step_tokens`` in one try of a turn (the option ``max_tokens`` is
    ignored). Own functions run here, the kernel's tools in the toolhost. Errors of tools are
    reported to the model. Raises DeadlineExceeded after ``timeout`` seconds, NotFound for an
    unknown tool, InvalidArgument for a tool whose schema a grammar cannot express, and the errors
    of ``aios.chat``.
    """
    limits = _Limits(max_steps, budget_tokens, step_tokens, timeout)
    plan = _plan(task, tools, limits, options)
    try:
        action = next(plan)
        while True:
            try:
                outcome = _perform(action)
            except Exception as error:  # the plan reports some to the model and raises the others
                action = plan.throw(error)
            else:
                action = plan.send(outcome)
    except StopIteration as end:
        result: ActResult = end.value
        return result


async def aact(
    task: str,
    tools: Sequence[str | tools.Function] = (),
    *,
    max_steps: int = 6,
    budget_tokens: int = 2048,
    step_tokens: int = 384,
    timeout: float = 600.0,
    **options: Unpack[sdk.ChatOptions],
) -> ActResult:
    """``act`` for asyncio. Cancelling the task cancels the current generation or tool call.

    Own coroutine functions run in this loop and are cancelled, too; other functions run in a thread
    until they return.
    """
    limits = _Limits(max_steps, budget_tokens, step_tokens, timeout)
    plan = _plan(task, tools, limits, options)
    try:
        action = next(plan)
        while True:
            try:
                outcome = await _aperform(action)
            except Exception as error:
                action = plan.throw(error)
            else:
                action = plan.send(outcome)
    except StopIteration as end:
        result: ActResult = end.value
        return result


@dataclass(frozen=True)
class _Limits:
    """The limits of a task."""

    max_steps: int
    budget_tokens: int
    step_tokens: int
    timeout_s: float


@dataclass(frozen=True)
class _LookUp:
    """An action of a plan: look up a tool."""

    name: str


@dataclass(frozen=True)
class _Chat:
    """An action of a plan: have the model write a turn."""

    messages: list[Message]
    timeout_s: float
    options: sdk.ChatOptions


@dataclass(frozen=True)
class _Call:
    """An action of a plan: call a tool; ``own`` is the caller's own function."""

    name: str
    arguments: dict[str, Any]
    timeout_s: float
    own: Tool[..., Any] | None


_Action = _LookUp | _Chat | _Call
T = TypeVar("T")
_Plan = Generator[_Action, Any, T]
"""Yields actions; the result of each is sent to it, an error is thrown into it."""


def _perform(action: _Action) -> Any:
    match action:
        case _LookUp(name):
            return tools.show(name)
        case _Chat(messages, timeout_s, options):
            return sdk.chat(messages, timeout=timeout_s, **options)
        case _Call(name, arguments, timeout_s, None):
            return tools.call(name, arguments, timeout=timeout_s)
        case _Call(_, arguments, _, Tool() as own):
            return json.loads(own.run(json.dumps(arguments)))


async def _aperform(action: _Action) -> Any:
    match action:
        case _LookUp(name):
            return await tools.ashow(name)
        case _Chat(messages, timeout_s, options):
            return await sdk.achat(messages, timeout=timeout_s, **options)
        case _Call(name, arguments, timeout_s, None):
            return await tools.acall(name, arguments, timeout=timeout_s)
        case _Call(_, arguments, _, Tool() as own):
            return json.loads(await own.arun(json.dumps(arguments)))


def _plan(
    task: str,
    wanted: Sequence[str | tools.Function],
    limits: _Limits,
    options: sdk.ChatOptions,
) -> _Plan[ActResult]:
    """Do a task, from its first turn to its result."""
    deadline_s = time.monotonic() + limits.timeout_s
    own: dict[str, Tool[..., Any]] = {}
    specs: list[ToolSpec] = []
    for each in wanted:
        found: ToolInfo | Tool[..., Any]
        if isinstance(each, str):
            found = yield _LookUp(each)
        else:
            found = tools.as_tool(each)
            own[found.spec.name] = found
        specs.append(found.spec)
    work = _Task(own, specs, options, limits, deadline_s)
    work.messages += [Message("user", task)]
    for step in range(max(1, limits.max_steps)):
        try:
            if not (yield from work.step(last=step + 1 >= limits.max_steps)):
                break
        except ContextOverflow:
            if not work.result.steps:
                raise
            work.result.finish = "context"
            break
    work.result.messages = work.messages
    return work.result


class _Task:
    """One task in progress."""

    def __init__(
        self,
        own: Mapping[str, Tool[..., Any]],
        specs: Sequence[ToolSpec],
        options: sdk.ChatOptions,
        limits: _Limits,
        deadline_s: float,
    ) -> None:
        self._own, self._specs = own, specs
        self._options, self._deadline_s = options.copy(), deadline_s
        self._step_tokens, self._left = limits.step_tokens, limits.budget_tokens
        act_schema.turn(specs, 1, _MAX_CHARS, False, False)  # raises for unsupported tools at once
        about = self._options.pop("system", "")
        text = _SYSTEM.format(tools="\n".join(map(_signature, self._specs)))
        self.messages = [Message("system", f"{about}\n{text}".strip())]
        self.result = ActResult()

    def step(self, *, last: bool) -> _Plan[bool]:
        """Do one turn. Return True if another may follow."""
        written = yield from self._write_turn(last)
        if written is None:
            self.result.finish = "tokens"
            return False
        reply, said, tries = written
        self.messages.append(Message("assistant", reply.text))
        uses = []
        for call in said.get("calls", []):
            uses.append((yield from self._carry_out(call["tool"], call["arguments"])))
        self.result.steps.append(Step(reply.text, uses, reply.usage, tries))
        if not uses:
            self.result.text = said["answer"]
            return False
        self.messages.append(Message("user", _results(uses)))
        return True

    def _write_turn(self, last: bool) -> _Plan[tuple[ChatReply, dict[str, Any], int] | None]:
        """Return a complete turn (reply, parsed text, tries); None if too few tokens are left."""
        limit = min(self._step_tokens, self._left)
        if limit > 0:
            schema = act_schema.turn(self._specs, MAX_CALLS, _MAX_CHARS, False, last)
            reply = yield from self._chat(schema, limit)
            if reply.finish == "stop" and (said := _parsed(reply.text)):
                return reply, said, 1
        for calls, chars in ((2, 120), (1, 60), (1, 24), (1, 8)):
            try:
                schema = act_schema.turn(self._specs, calls, chars, True, last)
            except InvalidArgument:  # a string that must be longer than that
                return None
            most = act_schema.max_bytes(schema) + 1  # and the end of the turn
            if most <= min(self._left, max(self._step_tokens, 512)):
                reply = yield from self._chat(schema, most)
                said = _parsed(reply.text) if reply.finish == "stop" else None
                return (reply, said, 2) if said else None
        return None

    def _chat(self, schema: act_schema.Schema, limit: int) -> _Plan[ChatReply]:
        options = self._options.copy()
        options.update({"schema": schema, "max_tokens": limit})
        reply: ChatReply = yield _Chat(self.messages, self._left_s(), options)
        self._left -= reply.usage.completion_tokens
        self.result.tokens += reply.usage.completion_tokens
        return reply

    def _carry_out(self, name: str, arguments: dict[str, Any]) -> _Plan[ToolUse]:
        try:
            result = yield _Call(name, arguments, self._left_s(), self._own.get(name))
        except (KernelUnavailable, Cancelled):
            raise
        except AiosError as error:
            return ToolUse(name, arguments, error=error.message)
        return ToolUse(name, arguments, result)

    def _left_s(self) -> float:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the task was not done by its deadline", "give a larger timeout")
        return left_s


def _parsed(text: str) -> dict[str, Any] | None:
    """Return the object that a turn's text holds; None if it is invalid in spite of the grammar."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and ("answer" in said or said.get("calls")) else None


def _signature(spec: ToolSpec) -> str:
    """Return a tool as one line of the prompt."""
    schema = json.loads(spec.parameters)
    required = schema.get("required", [])
    parameters = [
        f"{name}{'' if name in required else '?'}: {_type_name(each)}"
        for name, each in schema.get("properties", {}).items()
    ]
    return f"- {spec.name}({', '.join(parameters)}): {spec.description.partition(chr(10))[0]}"


def _type_name(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if "enum" in schema:
        return "|".join(json.dumps(value) for value in schema["enum"][:8])
    return str(schema.get("type", "any"))


def _results(uses: Sequence[ToolUse]) -> str:
    """Return the results as the model's next message."""
    lines = []
    for use in uses:
        text = f"error: {use.error}" if use.error else json.dumps(use.result, ensure_ascii=False)
        cut = len(text) - _MAX_RESULT_CHARS
        lines.append(
            f"{use.tool}: {text[:_MAX_RESULT_CHARS]}" + (f" … ({cut} more)" if cut > 0 else "")
        )
    return "\n".join(lines)
