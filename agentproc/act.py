"""``aios.act``: a task for the model and tools to do it with.

    result = aios.act("What is 17 * 23?", tools=["calculate"])
    print(result.text, [use.tool for step in result.steps for use in step.uses])

In each turn the model writes calls or an answer; a grammar holds it to the tools' schemas, so that
even the smallest model writes nothing that cannot be read. A turn that is cut off by its token
limit is never carried out: it is asked for again in a form that must fit. What the tools returned
is said to the model, and its context grows at the end only, so the KV of all before it is used
again. Steps and tokens are bounded.
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

MOST_CALLS = 4
"""Calls that one turn may have."""
_CHARS = 240
"""Characters of a string, as a rule."""
_TOLD_CHARS = 2000
"""What the model is told of one result."""
_SYSTEM = """You do the user's task with tools. Write JSON only.
To call tools: {{"calls": [{{"tool": NAME, "arguments": {{...}}}}]}}
When you know the answer: {{"answer": TEXT}}
Tools:
{tools}"""


@dataclass(frozen=True)
class ToolUse:
    """One call that the model made: its result, or the error that the model was told."""

    tool: str
    arguments: dict[str, Any]
    result: Any = None
    error: str = ""


@dataclass(frozen=True)
class Step:
    """One turn: what the model wrote, what came of it, and what it cost."""

    text: str
    uses: list[ToolUse]
    usage: Usage
    tries: int = 1


@dataclass
class ActResult:
    """``finish``: ``answer``; ``tokens`` or ``context`` when there was no room for another turn."""

    text: str = ""
    finish: Literal["answer", "tokens", "context"] = "answer"
    steps: list[Step] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    tokens: int = 0
    """Generated in all."""


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
    """Have the model do a task with tools: names of the kernel's, and functions of one's own.

    ``max_steps`` turns at most, the last of which is an answer; ``budget_tokens`` generated in
    all, ``step_tokens`` in one try of a turn (an option ``max_tokens`` counts for nothing). Own
    functions run here; the kernel's tools in the toolhost. What a tool refuses or fails at is told
    to the model. Raises DeadlineExceeded after ``timeout`` seconds, NotFound for a tool there is
    not, InvalidArgument for one whose schema the model cannot be held to, and ``aios.chat``'s
    errors.
    """
    plan = _plan(task, tools, _Limits(max_steps, budget_tokens, step_tokens, timeout), options)
    try:
        asked = next(plan)
        while True:
            try:
                got = _done(asked)
            except Exception as error:  # the plan knows which ones it tells the model
                asked = plan.throw(error)
            else:
                asked = plan.send(got)
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
    """``act`` for asyncio. Cancelling the task ends the generation or the tool call under way.

    Own functions that are coroutines run in this loop and are cancelled, too; others run in a
    thread, which goes on until they return.
    """
    plan = _plan(task, tools, _Limits(max_steps, budget_tokens, step_tokens, timeout), options)
    try:
        asked = next(plan)
        while True:
            try:
                got = await _adone(asked)
            except Exception as error:
                asked = plan.throw(error)
            else:
                asked = plan.send(got)
    except StopIteration as end:
        result: ActResult = end.value
        return result


@dataclass(frozen=True)
class _Limits:
    """How far a task may go."""

    max_steps: int
    budget_tokens: int
    step_tokens: int
    timeout_s: float


@dataclass(frozen=True)
class _Show:
    """To be done for a task: look a tool up."""

    name: str


@dataclass(frozen=True)
class _Chat:
    """To be done: have the model write a turn."""

    messages: list[Message]
    timeout_s: float
    options: sdk.ChatOptions


@dataclass(frozen=True)
class _Call:
    """To be done: call a tool; ``own`` is one's own function."""

    name: str
    arguments: dict[str, Any]
    timeout_s: float
    own: Tool[..., Any] | None


_Asked = _Show | _Chat | _Call
T = TypeVar("T")
_Plan = Generator[_Asked, Any, T]
"""What is to be done, one after the other; sent are results, thrown the errors."""


def _done(asked: _Asked) -> Any:
    match asked:
        case _Show(name):
            return tools.show(name)
        case _Chat(messages, timeout_s, options):
            return sdk.chat(messages, timeout=timeout_s, **options)
        case _Call(name, arguments, timeout_s, None):
            return tools.call(name, arguments, timeout=timeout_s)
        case _Call(_, arguments, _, Tool() as own):
            return json.loads(own.run(json.dumps(arguments)))


async def _adone(asked: _Asked) -> Any:
    match asked:
        case _Show(name):
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
    """A task, from its first turn to its result."""
    deadline_s = time.monotonic() + limits.timeout_s
    own = {made.spec.name: made for made in map(tools.as_tool, _functions(wanted))}
    specs: list[ToolSpec] = []
    for each in wanted:
        if isinstance(each, str):
            found: ToolInfo = yield _Show(each)
            specs.append(found.spec)
        else:
            specs.append(own[tools.as_tool(each).spec.name].spec)
    work = _Act(own, specs, options, limits, deadline_s)
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


def _functions(wanted: Sequence[str | tools.Function]) -> list[tools.Function]:
    return [each for each in wanted if not isinstance(each, str)]


class _Act:
    """One task under way."""

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
        act_schema.turn(specs, 1, _CHARS, False, False)  # what cannot be is told before anything
        about = self._options.pop("system", "")
        text = _SYSTEM.format(tools="\n".join(map(_described, self._specs)))
        self.messages = [Message("system", f"{about}\n{text}".strip())]
        self.result = ActResult()

    def step(self, *, last: bool) -> _Plan[bool]:
        """One turn; whether another may follow."""
        written = yield from self._turn(last)
        if written is None:
            self.result.finish = "tokens"
            return False
        reply, said, tries = written
        self.messages.append(Message("assistant", reply.text))
        uses = []
        for call in said.get("calls", []):
            uses.append((yield from self._use(call["tool"], call["arguments"])))
        self.result.steps.append(Step(reply.text, uses, reply.usage, tries))
        if not uses:
            self.result.text = said["answer"]
            return False
        self.messages.append(Message("user", _told(uses)))
        return True

    def _turn(self, last: bool) -> _Plan[tuple[ChatReply, dict[str, Any], int] | None]:
        """A whole turn, or None when there are too few tokens left for one."""
        limit = min(self._step_tokens, self._left)
        if limit > 0:
            schema = act_schema.turn(self._specs, MOST_CALLS, _CHARS, False, last)
            reply = yield from self._chat(schema, limit)
            if reply.finish == "stop" and (said := _read(reply.text)):
                return reply, said, 1
        for calls, chars in ((2, 120), (1, 60), (1, 24), (1, 8)):
            try:
                schema = act_schema.turn(self._specs, calls, chars, True, last)
            except InvalidArgument:  # a text that must be longer than that
                return None
            most = act_schema.longest(schema) + 1  # and the end of the turn
            if most <= min(self._left, max(self._step_tokens, 512)):
                reply = yield from self._chat(schema, most)
                said = _read(reply.text) if reply.finish == "stop" else None
                return (reply, said, 2) if said else None
        return None

    def _chat(self, schema: act_schema.Schema, limit: int) -> _Plan[ChatReply]:
        options = self._options.copy()
        options.update({"schema": schema, "max_tokens": limit})
        reply: ChatReply = yield _Chat(self.messages, self._left_s(), options)
        self._left -= reply.usage.completion_tokens
        self.result.tokens += reply.usage.completion_tokens
        return reply

    def _use(self, name: str, arguments: dict[str, Any]) -> _Plan[ToolUse]:
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


def _read(text: str) -> dict[str, Any] | None:
    """What a turn says; None when it cannot be read, in spite of the grammar."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and ("answer" in said or said.get("calls")) else None


def _described(spec: ToolSpec) -> str:
    """A tool in one line of the prompt."""
    schema = json.loads(spec.parameters)
    required = schema.get("required", [])
    parameters = [
        f"{name}{'' if name in required else '?'}: {_kind(each)}"
        for name, each in schema.get("properties", {}).items()
    ]
    return f"- {spec.name}({', '.join(parameters)}): {spec.description.partition(chr(10))[0]}"


def _kind(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if "enum" in schema:
        return "|".join(json.dumps(value) for value in schema["enum"][:8])
    return str(schema.get("type", "any"))


def _told(uses: Sequence[ToolUse]) -> str:
    """The results, as the model reads them."""
    lines = []
    for use in uses:
        text = f"error: {use.error}" if use.error else json.dumps(use.result, ensure_ascii=False)
        cut = len(text) - _TOLD_CHARS
        lines.append(f"{use.tool}: {text[:_TOLD_CHARS]}" + (f" … ({cut} more)" if cut > 0 else ""))
    return "\n".join(lines)
