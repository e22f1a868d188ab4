"""Tools, called and offered: ``aios.tools.call``, ``list``, ``show``, ``offer`` and ``serve``.

    aios.tools.call("calculate", {"expression": "6 * 7"})       # 42
    aios.tools.offer(weather)                                   # others call it as "weather"

Tools run in the toolhost, or in the agent that offers them; the kernel checks, queues and routes.
"""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from . import session
from .syscalls.client import on_behalf
from .syscalls.errors import AiosError, InvalidArgument, KernelUnavailable
from .syscalls.tool_types import (
    AnswerRequest,
    OfferRequest,
    ToolCall,
    ToolInfo,
    ToolList,
    ToolRef,
    ToolReply,
    ToolWork,
)
from .syscalls.types import MAX_TIMEOUT_S, Empty
from .tool import Tool, tool

Function = Tool[..., Any] | Callable[..., Any]


def call(
    name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
) -> Any:
    """Call a tool and return its result.

    ``timeout`` in seconds, 600 by default, includes waiting for its turn. Raises InvalidArgument
    when the arguments do not fit its schema, ToolFailed, ToolUnavailable, DeadlineExceeded,
    NotFound, PermissionDenied, ResourceExhausted.
    """
    return json.loads(reply(name, arguments, timeout=timeout).result)


def reply(
    name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
) -> ToolReply:
    """Like ``call``, with what it printed, how long it waited and ran, and how often it was tried;
    ``result`` is JSON text."""
    try:
        text = json.dumps(dict(arguments or {}), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{name}: the arguments cannot be JSON: {error}") from None
    made: ToolReply = session.call("tool.call", ToolCall(name, text), timeout)
    return made


def list() -> builtins.list[ToolInfo]:
    """All tools that there are."""
    found: ToolList = session.call("tool.list", Empty())
    return found.tools


def show(name: str) -> ToolInfo:
    """One tool, with its schema. Raises NotFound."""
    found: ToolInfo = session.call("tool.show", ToolRef(name))
    return found


def offer(*functions: Function, threads: int = 1) -> None:
    """Offer functions to others by name, and serve them in threads beside the program.

    They replace what was offered before; with none, nothing is offered any more. What a function
    asks of the kernel needs its caller's rights, too, but not in threads that it starts. Raises
    InvalidArgument when a name is taken.
    """
    mine = _offered(functions)
    for _ in range(threads if mine else 0):
        threading.Thread(target=_serve, args=(mine,), name="aios-tools", daemon=True).start()


def serve(*functions: Function) -> None:
    """Offer functions and serve them here; returns only when the kernel has ended."""
    _serve(_offered(functions))


def _offered(functions: tuple[Function, ...]) -> dict[str, Tool[..., Any]]:
    mine = {made.spec.name: made for made in map(as_tool, functions)}
    session.call("tool.offer", OfferRequest([each.spec for each in mine.values()]))
    return mine


def as_tool(function: Function) -> Tool[..., Any]:
    """A function as a tool, declared or not."""
    return function if isinstance(function, Tool) else tool(function)


def _serve(mine: Mapping[str, Tool[..., Any]]) -> None:
    while True:
        try:
            work: ToolWork = session.call("tool.next", Empty(), MAX_TIMEOUT_S)
            session.call("tool.answer", _answer(mine, work))
        except KernelUnavailable:
            return


def _answer(mine: Mapping[str, Tool[..., Any]], work: ToolWork) -> AnswerRequest:
    try:
        if work.name not in mine:
            raise InvalidArgument(f"{work.name} is offered no more")
        with on_behalf(work.work):
            result = mine[work.name].run(work.arguments)
        return AnswerRequest(work.work, result)
    except AiosError as error:
        return AnswerRequest(work.work, code=error.code, message=error.message[:4096])
