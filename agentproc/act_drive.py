"""Carrying out the plan of ``aios.act``: its actions as calls of this thread or of asyncio.

A plan is a generator, so what to do next is written once for both. It yields actions; the result of
each is sent to it, an error is thrown into it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aios.syscalls.types.chat import ChatReply, Message

from . import sdk, tools

if TYPE_CHECKING:
    from .chat_request import ChatOptions
    from .tool import Tool


@dataclass(frozen=True)
class LookUp:
    """Look up a tool of the kernel."""

    name: str


@dataclass(frozen=True)
class Write:
    """Have the model write a turn."""

    messages: list[Message]
    timeout_s: float
    options: ChatOptions


@dataclass(frozen=True)
class Use:
    """Call a tool; ``own`` is the caller's own function."""

    name: str
    arguments: dict[str, Any]
    timeout_s: float
    own: Tool[..., Any] | None


Action = LookUp | Write | Use
T = TypeVar("T")
Plan = Generator[Action, Any, T]


def here(plan: Plan[T]) -> T:
    """Carry out a plan in this thread, and return its result."""
    try:
        _carried_out(plan, _in_thread).send(None)  # it never waits
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("an action of a thread waited for an event loop")


async def in_loop(plan: Plan[T]) -> T:
    """Carry out a plan in the running event loop, and return its result."""
    return await _carried_out(plan, _in_loop)


async def _carried_out(plan: Plan[T], perform: Callable[[Action], Awaitable[Any]]) -> T:
    try:
        action = next(plan)
        while True:
            try:
                outcome = await perform(action)
            except Exception as error:  # the plan reports some to the model and raises the others
                action = plan.throw(error)
            else:
                action = plan.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result


async def _in_thread(action: Action) -> Any:
    match action:
        case LookUp(name):
            return tools.show(name)
        case Write(messages, timeout_s, options):
            reply: ChatReply = sdk.chat(messages, timeout=timeout_s, **options)
            return reply
        case Use(name, arguments, timeout_s, None):
            return tools.call(name, arguments, timeout=timeout_s)
        case Use(_, arguments, _, own):
            assert own
            return json.loads(own.run(json.dumps(arguments)))


async def _in_loop(action: Action) -> Any:
    match action:
        case LookUp(name):
            return await tools.ashow(name)
        case Write(messages, timeout_s, options):
            return await sdk.achat(messages, timeout=timeout_s, **options)
        case Use(name, arguments, timeout_s, None):
            return await tools.acall(name, arguments, timeout=timeout_s)
        case Use(_, arguments, _, own):
            assert own
            return json.loads(await own.arun(json.dumps(arguments)))
