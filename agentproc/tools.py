"""Call and offer tools: ``aios.tools.call``, ``list``, ``show``, ``offer`` and ``serve``.

    aios.tools.call("calculate", {"expression": "6 * 7"})       # 42
    aios.tools.offer(weather)                                   # others call it as "weather"

Tools run in the toolhost, or in the agent that offers them; the kernel checks, queues and routes.
"""

from __future__ import annotations

import builtins
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aios.syscalls.client import on_behalf
from aios.syscalls.errors import (
    AiosError,
    DeadlineExceeded,
    InvalidArgument,
    KernelUnavailable,
    NotFound,
    ToolFailed,
)
from aios.syscalls.types.common import MAX_TIMEOUT_S, Empty
from aios.syscalls.types.tool import (
    OfferRequest,
    ToolAnswer,
    ToolCall,
    ToolInfo,
    ToolList,
    ToolRef,
    ToolReply,
    ToolWork,
)

from . import session
from .tool import Tool, tool

log = logging.getLogger("aios.tools")

Function = Tool[..., Any] | Callable[..., Any]

_PAUSE_S, _MAX_PAUSE_S = 0.2, 30.0
"""First and longest pause between attempts; each is twice the one before."""
_TRIES = 5
"""Limit on attempts to send an answer."""


def call(
    name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
) -> Any:
    """Call a tool and return its result.

    ``timeout`` in seconds, 600 by default, time in the queue included. Raises InvalidArgument if
    the arguments do not match the tool's schema, ToolFailed, ToolUnavailable, DeadlineExceeded,
    NotFound, PermissionDenied, ResourceExhausted.
    """
    return json.loads(reply(name, arguments, timeout=timeout).result)


def reply(
    name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
) -> ToolReply:
    """Call a tool and return its whole reply: the result as JSON text, its output, times in seconds
    and the number of attempts."""
    return session.call("tool.call", _request(name, arguments), ToolReply, timeout)


def _request(name: str, arguments: Mapping[str, Any] | None) -> ToolCall:
    try:
        return ToolCall(name, json.dumps(dict(arguments or {}), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{name}: the arguments are not JSON: {error}") from None


async def acall(
    name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
) -> Any:
    """``call`` for asyncio. Cancelling the task ends the call."""
    made: ToolReply = await _async_call("tool.call", _request(name, arguments), timeout)
    return json.loads(made.result)


async def ashow(name: str) -> ToolInfo:
    """``show`` for asyncio."""
    found: ToolInfo = await _async_call("tool.show", ToolRef(name))
    return found


async def _async_call(name: str, body: msgspec.Struct, timeout: float | None = None) -> Any:
    from .aio import connection

    return await (await connection(session.current())).call(name, body, timeout)


def list() -> builtins.list[ToolInfo]:
    """Return all tools."""
    return session.call("tool.list", Empty(), ToolList).tools


def show(name: str) -> ToolInfo:
    """Return one tool, with its schema. Raises NotFound."""
    return session.call("tool.show", ToolRef(name), ToolInfo)


def offer(*functions: Function, threads: int = 1) -> None:
    """Offer functions as tools and serve them in background threads.

    They replace the functions offered before; without arguments nothing is offered any more. The
    system calls of a function also need its caller's rights, except in threads that it starts. Its
    exceptions are reported to its caller. A function that exceeds its ``timeout`` cannot be killed:
    its caller gets an error, and the function counts as running until it returns. Raises
    InvalidArgument if a name is taken.
    """
    here = _offer(functions)
    while functions and here.servers < threads:
        here.servers += 1
        threading.Thread(target=_serve, args=(here,), name="aios-tools", daemon=True).start()


def serve(*functions: Function) -> None:
    """Offer functions and serve them in this thread; return when the kernel has ended."""
    here = _offer(functions)
    here.servers += 1
    _serve(here)


def _offer(functions: tuple[Function, ...]) -> session.Session:
    mine = {made.spec.name: made for made in map(as_tool, functions)}
    session.call("tool.offer", OfferRequest([each.spec for each in mine.values()]), Empty)
    here = session.current()
    here.offered = mine
    return here


def as_tool(function: Function) -> Tool[..., Any]:
    """Return a function as a tool, whether declared or not."""
    return function if isinstance(function, Tool) else tool(function)


def _serve(here: session.Session) -> None:
    try:
        while True:
            work = _next()
            _work(here.offered, work)  # what is offered may have changed meanwhile
    except KernelUnavailable:
        return
    finally:
        here.servers -= 1


def _next() -> ToolWork:
    """Wait, without limit, for a call to serve. Raises KernelUnavailable."""
    pause_s = _PAUSE_S
    while True:
        try:
            return session.call("tool.next", Empty(), ToolWork, MAX_TIMEOUT_S)
        except KernelUnavailable:
            raise
        except DeadlineExceeded:  # no call for a long time
            pause_s = _PAUSE_S
        except AiosError as error:
            log.warning("cannot fetch work, retrying in %g s: %s", pause_s, error)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)


def _work(mine: Mapping[str, Tool[..., Any]], work: ToolWork) -> None:
    """Serve one call and answer it once, whatever the function does."""
    try:
        answer = _answer(mine, work)
    except BaseException as error:  # SystemExit and the like: the function's own
        _tell(_failure(work, ToolFailed.code, f"{work.name} raised {type(error).__name__}"))
        if threading.current_thread() is threading.main_thread():
            raise  # the program may be about to exit
    else:
        _tell(answer)


def _tell(answer: ToolAnswer) -> None:
    """Send an answer, and retry on failure: until it arrives, the call counts as running."""
    for attempt in range(_TRIES):
        try:
            session.call("tool.answer", answer, Empty)
            return
        except KernelUnavailable:
            raise
        except AiosError as error:
            log.warning("work %d could not be answered: %s", answer.work, error)
            if isinstance(error, NotFound) or attempt == _TRIES - 1:
                return  # it has its answer, or its agent has to end
        time.sleep(_PAUSE_S * 2**attempt)


def _answer(mine: Mapping[str, Tool[..., Any]], work: ToolWork) -> ToolAnswer:
    try:
        if work.name not in mine:
            raise InvalidArgument(f"{work.name} is no longer offered")
        if work.due_s and time.monotonic() > work.due_s:
            raise DeadlineExceeded(f"{work.name} was not started: its caller has given up")
        with on_behalf(work.work):
            result = mine[work.name].run(work.arguments)
        return ToolAnswer(work.work, result)
    except AiosError as error:
        return _failure(work, error.code, str(error.message))


def _failure(work: ToolWork, code: str, message: str) -> ToolAnswer:
    plain = message.encode(errors="replace").decode()  # halves of surrogate pairs cannot be sent
    return ToolAnswer(work.work, code=code[:64], message=plain[:4096])
