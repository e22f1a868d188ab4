"""``aios.act``: give the model a task, and tools to do it with.

    result = aios.act("What is 17 * 23?", tools=["calculate"])
    print(result.text, [use.tool for step in result.steps for use in step.uses])

In each turn the model writes calls or an answer (act_turns.py), held to the tools' schemas, so even
a small model writes nothing invalid. The results of the calls become the next messages; the context
grows at its end only, so its KV is reused. Steps and tokens are limited. A call that the model has
just made is not made again: it is told so, and a turn of nothing else is followed by an answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from aios.syscalls.errors import (
    AiosError,
    Cancelled,
    ContextOverflow,
    DeadlineExceeded,
    KernelUnavailable,
    ToolsUnsupported,
)
from aios.syscalls.types.chat import ChatReply, Message, Usage
from aios.syscalls.types.tool import ToolInfo, ToolSpec

from . import act_drive, tools
from .act_drive import LookUp, Plan, Use, Write
from .act_turns import JsonTurns, OwnTurns, ToolUse, Turn, Turns
from .chat_request import ChatOptions, TextOptions
from .tool import Tool

if TYPE_CHECKING:
    from typing import Unpack


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
    **options: Unpack[TextOptions],
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
    return act_drive.here(_plan(task, tools, limits, options))


async def aact(
    task: str,
    tools: Sequence[str | tools.Function] = (),
    *,
    max_steps: int = 6,
    budget_tokens: int = 2048,
    step_tokens: int = 384,
    timeout: float = 600.0,
    **options: Unpack[TextOptions],
) -> ActResult:
    """``act`` for asyncio. Cancelling the task cancels the current generation or tool call.

    Own coroutine functions run in this loop and are cancelled, too; other functions run in a thread
    until they return.
    """
    limits = _Limits(max_steps, budget_tokens, step_tokens, timeout)
    return await act_drive.in_loop(_plan(task, tools, limits, options))


@dataclass(frozen=True)
class _Limits:
    """The limits of a task."""

    max_steps: int
    budget_tokens: int
    step_tokens: int
    timeout_s: float


def _plan(
    task: str, wanted: Sequence[str | tools.Function], limits: _Limits, options: TextOptions
) -> Plan[ActResult]:
    """Do a task, from its first turn to its result."""
    deadline_s = time.monotonic() + limits.timeout_s
    own: dict[str, Tool[..., Any]] = {}
    specs: list[ToolSpec] = []
    for each in wanted:
        found: ToolInfo | Tool[..., Any]
        if isinstance(each, str):
            found = yield LookUp(each)
        else:
            found = tools.as_tool(each)
            own[found.spec.name] = found
        specs.append(found.spec)
    work = _Task(task, own, specs, options, limits, deadline_s)
    for step in range(max(1, limits.max_steps)):
        try:
            if not (yield from work.step(last=step + 1 >= limits.max_steps)):
                break
        except ContextOverflow:
            if not work.result.steps:
                raise
            work.result.finish = "context"
            break
    work.result.messages = work.turns.messages
    return work.result


class _Task:
    """One task in progress."""

    def __init__(
        self,
        task: str,
        own: Mapping[str, Tool[..., Any]],
        specs: Sequence[ToolSpec],
        options: TextOptions,
        limits: _Limits,
        deadline_s: float,
    ) -> None:
        self._task, self._own, self._specs = task, own, specs
        self._options, self._deadline_s = options.copy(), deadline_s
        self._step_tokens, self._left = limits.step_tokens, limits.budget_tokens
        self._about = self._options.pop("system", "")
        self.turns: Turns = OwnTurns(specs, task, self._about, self._ask)
        self.result = ActResult()
        self._uses: dict[str, ToolUse] = {}
        """The calls of the turn before and of this one, by name and arguments."""
        self._stuck = False
        """The turn before only repeated calls."""

    def step(self, *, last: bool) -> Plan[bool]:
        """Do one turn. Return True if another may follow."""
        turn = yield from self._write(last or self._stuck)
        if turn is None:
            self.result.finish = "tokens"
            return False
        before, self._uses, uses = self._uses, {}, list[ToolUse]()
        for name, arguments in turn.calls:
            key = json.dumps([name, arguments], sort_keys=True)
            use = yield from self._carry_out(name, arguments, self._uses.get(key, before.get(key)))
            self._uses[key] = use
            uses.append(use)
        self._stuck = bool(uses) and all(use.repeated for use in uses)
        self.turns.tell(turn, uses)
        self.result.steps.append(Step(turn.reply.text, uses, turn.reply.usage, turn.tries))
        if not uses:
            self.result.text = turn.answer
            self.result.finish = "answer" if turn.whole else "tokens"
        return bool(uses)

    def _write(self, last: bool) -> Plan[Turn | None]:
        limit = min(self._step_tokens, self._left)
        try:
            return (yield from self.turns.write(limit, lambda: self._left, last))
        except ToolsUnsupported:
            self.turns = JsonTurns(self._specs, self._task, self._about, self._ask)
            return (yield from self.turns.write(limit, lambda: self._left, last))

    def _ask(self, messages: Sequence[Message], options: ChatOptions) -> Plan[ChatReply]:
        wanted: ChatOptions = {**self._options, **options}
        reply: ChatReply = yield Write(list(messages), self._left_s(), wanted)
        self._left -= reply.usage.completion_tokens
        self.result.tokens += reply.usage.completion_tokens
        return reply

    def _carry_out(
        self, name: str, arguments: dict[str, Any], before: ToolUse | None
    ) -> Plan[ToolUse]:
        """Make a call, unless it has just been made; one that failed is made once more."""
        if before and (not before.error or before.failures > 1):
            return replace(before, repeated=True)
        try:
            result = yield Use(name, arguments, self._left_s(), self._own.get(name))
        except (KernelUnavailable, Cancelled):
            raise
        except AiosError as error:
            failures = before.failures + 1 if before else 1
            return ToolUse(name, arguments, error=error.message, failures=failures)
        return ToolUse(name, arguments, result)

    def _left_s(self) -> float:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the task was not done by its deadline", "give a larger timeout")
        return left_s
