"""The functions of ``import aios``: system calls as Python functions.

Synchronous functions use the calling thread's connection, asynchronous ones the event loop's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from aios.syscalls.types.chat import ChatReply, Chunk
from aios.syscalls.types.common import Empty
from aios.syscalls.types.mail import MailReply, RecvRequest, SendRequest
from aios.syscalls.types.process import (
    Class,
    ExitStatus,
    LogReply,
    Pid,
    ProcessInfo,
    ProcessList,
    PsRequest,
    RefRequest,
    ReniceRequest,
    SignalRequest,
    SpawnReply,
    SpawnRequest,
)

from . import session
from .chat_request import ChatOptions, Prompt, request
from .output import Output

if TYPE_CHECKING:
    from typing import Unpack

    from .aio import AsyncConnection

T = TypeVar("T")


@overload
def chat(
    prompt: Prompt, *, output: None = ..., timeout: float | None = ...,
    **options: Unpack[ChatOptions],
) -> ChatReply: ...  # fmt: skip
@overload
def chat(
    prompt: Prompt, *, output: type[T], timeout: float | None = ..., **options: Unpack[ChatOptions]
) -> T: ...  # fmt: skip
@overload
def chat(
    prompt: Prompt, *, output: Any, timeout: float | None = ..., **options: Unpack[ChatOptions]
) -> Any: ...  # fmt: skip
def chat(
    prompt: Prompt,
    *,
    output: Any = None,
    timeout: float | None = None,
    **options: Unpack[ChatOptions],
) -> Any:
    """Generate a reply to a text or to a conversation (role/content dicts or Messages).

    With ``output``, a type (dataclass, TypedDict, pydantic model, list[int], Literal...), return a
    value of that type instead of the reply. ``timeout`` in seconds, 600 by default. Raises
    ContextOverflow, BudgetExceeded, DeadlineExceeded, InvalidArgument, ModelUnavailable,
    KernelUnavailable; with ``output`` OutputIncomplete if ``max_tokens`` cuts the text.
    """
    shape = None if output is None else Output(output)
    body = request(prompt, shape.options(options) if shape else options, streamed=False)
    reply = session.call("llm.chat", body, ChatReply, timeout)
    return shape.value(reply, options) if shape else reply


class ReplyStream(Iterator[str]):
    """Pieces of text as they are generated; ``reply`` is set after the last.

    ``reasoning``: what the model has reasoned so far. Closing the stream early, or leaving its
    ``with``, cancels the generation.
    """

    def __init__(self, events: Iterator[Chunk | ChatReply]) -> None:
        self._events = events
        self.reply: ChatReply | None = None
        self.reasoning = ""

    def __next__(self) -> str:
        return next(chunk.text for chunk in self.chunks() if chunk.text)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the pieces of reasoning, too: each Chunk has one or both."""
        for event in self._events:
            if isinstance(event, Chunk):
                self.reasoning += event.reasoning
                yield event
            else:
                self.reply = event

    def __enter__(self) -> ReplyStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the rest of the generation. Idempotent."""
        close = getattr(self._events, "close", None)
        if close:
            close()


def stream(
    prompt: Prompt, *, timeout: float | None = None, **options: Unpack[ChatOptions]
) -> ReplyStream:
    """Generate a reply like ``chat``, but return its text piece by piece."""
    body = request(prompt, options, streamed=True)
    return ReplyStream(session.current().connection().stream("llm.chat", body, timeout))


async def _connection() -> AsyncConnection:
    from .aio import connection

    return await connection(session.current())


@overload
async def achat(
    prompt: Prompt, *, output: None = ..., timeout: float | None = ...,
    **options: Unpack[ChatOptions],
) -> ChatReply: ...  # fmt: skip
@overload
async def achat(
    prompt: Prompt, *, output: type[T], timeout: float | None = ..., **options: Unpack[ChatOptions]
) -> T: ...  # fmt: skip
@overload
async def achat(
    prompt: Prompt, *, output: Any, timeout: float | None = ..., **options: Unpack[ChatOptions]
) -> Any: ...  # fmt: skip
async def achat(
    prompt: Prompt,
    *,
    output: Any = None,
    timeout: float | None = None,
    **options: Unpack[ChatOptions],
) -> Any:
    """``chat`` for asyncio. Cancelling the task cancels the generation."""
    shape = None if output is None else Output(output)
    body = request(prompt, shape.options(options) if shape else options, streamed=False)
    reply: ChatReply = await (await _connection()).call("llm.chat", body, timeout)
    return shape.value(reply, options) if shape else reply


class AsyncReplyStream(AsyncIterator[str]):
    """ReplyStream for asyncio: use it, or its ``chunks()``, in ``async for``."""

    def __init__(self, events: AsyncIterator[Chunk | ChatReply]) -> None:
        self._events = events
        self.reply: ChatReply | None = None
        self.reasoning = ""

    async def __anext__(self) -> str:
        while chunk := await self._next():
            if chunk.text:
                return chunk.text
        raise StopAsyncIteration

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the pieces of reasoning, too: each Chunk has one or both."""
        while chunk := await self._next():
            yield chunk

    async def _next(self) -> Chunk | None:
        event = await anext(self._events, None)
        if isinstance(event, Chunk):
            self.reasoning += event.reasoning
            return event
        self.reply = event or self.reply
        return None


async def astream(
    prompt: Prompt, *, timeout: float | None = None, **options: Unpack[ChatOptions]
) -> AsyncReplyStream:
    """``stream`` for asyncio."""
    body = request(prompt, options, streamed=True)
    return AsyncReplyStream((await _connection()).stream("llm.chat", body, timeout))


def getpid() -> int:
    """Return this agent's pid in the kernel (not the host's pid)."""
    return session.call("getpid", Empty(), Pid).pid


def getppid() -> int:
    """Return the pid of the agent that spawned this one; 0 for the operator."""
    return session.call("getpid", Empty(), Pid).parent


def ps(*, all: bool = False) -> list[ProcessInfo]:
    """Return the process table. ``all`` includes dead processes."""
    return session.call("proc.ps", PsRequest(all), ProcessList).processes


class Process:
    """An agent, by pid. An agent may act on itself and its descendants only."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid, self.name = pid, name

    def __repr__(self) -> str:
        return f"<aios.Process {self.pid} {self.name}>"

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait until the agent ends and return how. Raises DeadlineExceeded."""
        return wait(self.pid, timeout)

    def kill(self) -> None:
        """Kill the agent and all it started."""
        session.call("proc.signal", SignalRequest(str(self.pid), "kill"), Empty)

    def stop(self, grace: float = 10.0) -> None:
        """Ask the agent to end; kill it after ``grace`` seconds."""
        session.call("proc.signal", SignalRequest(str(self.pid), "stop", grace), Empty)

    def pause(self) -> None:
        """Freeze the agent and its generation."""
        session.call("proc.signal", SignalRequest(str(self.pid), "pause"), Empty)

    def resume(self) -> None:
        """Thaw the agent."""
        session.call("proc.signal", SignalRequest(str(self.pid), "resume"), Empty)

    def renice(self, nice: int | None = None, klass: Class | None = None) -> None:
        """Change the agent's priority: ``nice`` from -20 (highest) to 19, ``klass``."""
        session.call("proc.renice", ReniceRequest(str(self.pid), nice, klass), Empty)

    def log(self) -> str:
        """Return the path of the agent's output."""
        return session.call("proc.log", RefRequest(str(self.pid)), LogReply).path


def spawn(
    path: str | os.PathLike[str],
    *args: str,
    name: str | None = None,
    nice: int = 0,
    klass: Class = "normal",
    max_tokens: int | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    model: str | None = None,
    rights: Sequence[str] | None = None,
    group: str | None = None,
    deny: Sequence[str] = (),
) -> Process:
    """Start a Python file as a child agent, which ends when this agent ends.

    The child inherits environment, folder, output, class, budget and rights; it can get fewer,
    never more. ``max_tokens``: limit on its tokens, charged to this agent's budget. ``timeout``:
    limit on its life, in seconds. ``rights``: all that it may do, as rules like ``model:*``,
    ``path.read:/notes/**``, ``tool.call:calculator``; to answer by message it needs
    ``agent.send:kin/*``. ``group``: its privilege group, instead of ``rights``. ``deny``: rules for
    what it may not do. ``name``: finds what it has stored in earlier runs; by default the file's
    name, with a number if that is another agent's. Raises PermissionDenied, also for a name that
    belongs to the operator or another program; InvalidArgument for an invalid rule or group;
    ResourceExhausted after 10,000 different names.
    """
    request = SpawnRequest(
        path=os.path.abspath(os.fspath(path)), args=list(args), cwd=os.getcwd(),
        env=dict(env or {}), name=name, nice=nice, klass=klass, max_tokens=max_tokens,
        timeout_s=timeout, model=model, group=group, deny=list(deny),
        rights=None if rights is None else list(rights),
    )  # fmt: skip
    reply = session.call("proc.spawn", request, SpawnReply)
    return Process(reply.pid, reply.name)


def wait(ref: int | str, timeout: float | None = None) -> ExitStatus:
    """Wait until a process (pid or name) ends and return how. Raises DeadlineExceeded."""
    return session.call("proc.wait", RefRequest(str(ref)), ExitStatus, timeout)


def send(to: int | str, value: Any) -> None:
    """Put a value into another agent's mailbox: any value that msgpack can encode, up to 1 MiB."""
    session.call("ipc.send", SendRequest(str(to), value), Empty)


def recv(timeout: float | None = None, *, sender: int | str | None = None) -> MailReply:
    """Wait for the next message and return it: ``.sender``, ``.sender_name``, ``.body``.
    ``timeout`` in seconds, 600 by default. Raises DeadlineExceeded."""
    request = RecvRequest(None if sender is None else str(sender))
    return session.call("ipc.recv", request, MailReply, timeout)
