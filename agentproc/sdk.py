"""The functions of ``import aios``: system calls with Python's manners.

Synchronous ones use the calling thread's connection, asynchronous ones one for each event loop.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.chat import ChatReply, ChatRequest, Chunk, Message
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

if TYPE_CHECKING:
    from typing import Unpack

    from .aio import AsyncConnection

Prompt = str | Sequence[Message | Mapping[str, str]]


class ChatOptions(TypedDict, total=False):
    """Options of a generation; defaults and limits are ChatRequest's.

    ``model``: another model than the agent's. ``seed``: 0 by default, so the same call gives the
    same text; None draws one. ``stop``: strings that end the text. ``schema``: a JSON schema (dict
    or text), ``grammar``: GBNF; the text then conforms. ``window``: what to do when the messages
    outgrow the context window; the reply's ``window`` says what was done. ``expected_tokens``: a
    guess of the reply's length, for the policy ``srtf``. ``recall``: up to so many notes from
    memory (of ``recall_scopes``: by default the agent's own) that fit the last message are put
    before it; the reply's ``recalled`` says which, and their scores. Notes below ``recall_min``
    (0 to 1, 0.5 by default) are left out, so an unrelated question recalls nothing.
    """

    system: str
    model: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop: list[str]
    schema: Mapping[str, Any] | str
    grammar: str
    window: Literal["error", "truncate", "summarise"]
    expected_tokens: int
    recall: int
    recall_scopes: list[str]
    recall_min: float


def _request(prompt: Prompt, options: ChatOptions, *, streamed: bool) -> ChatRequest:
    values: dict[str, Any] = dict(options)
    system, schema = values.pop("system", None), values.pop("schema", None)
    messages = [Message("system", system)] if system is not None else []
    if isinstance(prompt, str):
        messages.append(Message("user", prompt))
    else:
        messages += [_message(turn) for turn in prompt]
    if schema is not None:
        values["json_schema"] = schema if isinstance(schema, str) else json.dumps(schema)
    unknown = sorted(set(values) - set(ChatRequest.__struct_fields__))
    if unknown:
        known = ", ".join(sorted(ChatOptions.__annotations__))
        raise InvalidArgument(f"unknown option {unknown[0]!r}", f"options: {known}")
    return ChatRequest(messages=messages, stream=streamed, **values)


def _message(turn: Message | Mapping[str, str]) -> Message:
    if isinstance(turn, Message):
        return turn
    try:
        return Message(turn["role"], turn["content"], turn.get("name"))
    except (KeyError, TypeError):
        raise InvalidArgument(f"a message has role and content; got {turn!r}") from None


def chat(
    prompt: Prompt, *, timeout: float | None = None, **options: Unpack[ChatOptions]
) -> ChatReply:
    """Generate a reply to a text or a conversation (role/content dicts or Messages).

    ``timeout`` in seconds, 600 by default. Raises ContextOverflow, BudgetExceeded,
    DeadlineExceeded, InvalidArgument, ModelUnavailable, KernelUnavailable.
    """
    reply: ChatReply = session.call("llm.chat", _request(prompt, options, streamed=False), timeout)
    return reply


class ReplyStream(Iterator[str]):
    """Pieces of text as they are generated; ``reply`` is there when they have ended.

    Closing it early (or leaving its ``with``) cancels the generation.
    """

    def __init__(self, events: Iterator[Chunk | ChatReply]) -> None:
        self._events = events
        self.reply: ChatReply | None = None

    def __next__(self) -> str:
        event = next(self._events)
        if isinstance(event, Chunk):
            return event.text
        self.reply = event
        next(self._events, None)
        raise StopIteration

    def __enter__(self) -> ReplyStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what has not come yet. Idempotent."""
        close = getattr(self._events, "close", None)
        if close:
            close()


def stream(
    prompt: Prompt, *, timeout: float | None = None, **options: Unpack[ChatOptions]
) -> ReplyStream:
    """Like ``chat``, but text comes piece by piece."""
    body = _request(prompt, options, streamed=True)
    return ReplyStream(session.current().connection().stream("llm.chat", body, timeout))


async def _connection() -> AsyncConnection:
    from .aio import connection

    return await connection(session.current())


async def achat(
    prompt: Prompt, *, timeout: float | None = None, **options: Unpack[ChatOptions]
) -> ChatReply:
    """``chat`` for asyncio. Cancelling the task cancels the generation."""
    body = _request(prompt, options, streamed=False)
    reply: ChatReply = await (await _connection()).call("llm.chat", body, timeout)
    return reply


class AsyncReplyStream(AsyncIterator[str]):
    """ReplyStream for asyncio: use it in ``async for``."""

    def __init__(self, events: AsyncIterator[Chunk | ChatReply]) -> None:
        self._events = events
        self.reply: ChatReply | None = None

    async def __anext__(self) -> str:
        event = await anext(self._events)
        if isinstance(event, Chunk):
            return event.text
        self.reply = event
        raise StopAsyncIteration


async def astream(
    prompt: Prompt, *, timeout: float | None = None, **options: Unpack[ChatOptions]
) -> AsyncReplyStream:
    """``stream`` for asyncio."""
    body = _request(prompt, options, streamed=True)
    return AsyncReplyStream((await _connection()).stream("llm.chat", body, timeout))


def getpid() -> int:
    """This agent's pid with the kernel (not the host's)."""
    reply: Pid = session.call("getpid", Empty())
    return reply.pid


def getppid() -> int:
    """The pid of the agent that spawned this one; 0 for the operator."""
    reply: Pid = session.call("getpid", Empty())
    return reply.parent


def ps(*, all: bool = False) -> list[ProcessInfo]:
    """The process table; ``all`` includes the dead."""
    reply: ProcessList = session.call("proc.ps", PsRequest(all))
    return reply.processes


class Process:
    """An agent, by pid. Acting on it needs it to be oneself or a descendant."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid, self.name = pid, name

    def __repr__(self) -> str:
        return f"<aios.Process {self.pid} {self.name}>"

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait for its end. Raises DeadlineExceeded."""
        return wait(self.pid, timeout)

    def kill(self) -> None:
        """End it and all it started, now."""
        session.call("proc.signal", SignalRequest(str(self.pid), "kill"))

    def stop(self, grace: float = 10.0) -> None:
        """Ask it to end; kill it after ``grace`` seconds."""
        session.call("proc.signal", SignalRequest(str(self.pid), "stop", grace))

    def pause(self) -> None:
        """Freeze it, its generation included."""
        session.call("proc.signal", SignalRequest(str(self.pid), "pause"))

    def resume(self) -> None:
        """Let it go on."""
        session.call("proc.signal", SignalRequest(str(self.pid), "resume"))

    def renice(self, nice: int | None = None, klass: Class | None = None) -> None:
        """Change its priority."""
        session.call("proc.renice", ReniceRequest(str(self.pid), nice, klass))

    def log(self) -> str:
        """The path of its output."""
        reply: LogReply = session.call("proc.log", RefRequest(str(self.pid)))
        return reply.path


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
    """Start a Python file as a child agent, which ends when this one does.

    It inherits environment, folder, output, class, budget and rights; it can have less, not more.
    ``max_tokens``: the part of this agent's budget that it may use. ``rights``: all that it may do,
    as rules like ``model:*``, ``path.read:/notes/**``, ``tool.call:calculator``, with
    ``agent.send:kin/*`` for one that answers by message; or ``group``: the privilege group it is
    in; ``deny``: rules for what it may not do. ``name``: what it stores is
    found again by it; without, it is the file's, with a number where that is another's. Raises
    PermissionDenied, also for a name of the operator's or of another program's; InvalidArgument for
    what is no rule or group; ResourceExhausted after 10,000 different names.
    """
    reply: SpawnReply = session.call("proc.spawn", SpawnRequest(
        path=os.path.abspath(os.fspath(path)), args=list(args), cwd=os.getcwd(),
        env=dict(env or {}), name=name, nice=nice, klass=klass, max_tokens=max_tokens,
        timeout_s=timeout, model=model, group=group, deny=list(deny),
        rights=None if rights is None else list(rights),
    ))  # fmt: skip
    return Process(reply.pid, reply.name)


def wait(ref: int | str, timeout: float | None = None) -> ExitStatus:
    """Wait for a process's end and say how it ended."""
    status: ExitStatus = session.call("proc.wait", RefRequest(str(ref)), timeout)
    return status


def send(to: int | str, value: Any) -> None:
    """Put a value (what msgpack can carry) into another agent's mailbox."""
    session.call("ipc.send", SendRequest(str(to), value))


def recv(timeout: float | None = None, *, sender: int | str | None = None) -> MailReply:
    """The next message: ``.sender``, ``.sender_name``, ``.body``. Raises DeadlineExceeded."""
    reply: MailReply = session.call(
        "ipc.recv", RecvRequest(None if sender is None else str(sender)), timeout
    )
    return reply
