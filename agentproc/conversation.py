"""Contexts: conversations that grow, fork into branches, and are saved and restored.

    aios.context.chat("Plan a trip to Oslo.")
    branches = aios.context.fork(3)              # best of three; the prefix is computed once
    best = max((b.chat("Go on.", seed=i) for i, b in enumerate(branches)), key=score)
    aios.context.save("oslo")                    # in a later run: aios.context.restore("oslo")

A context is a list of messages. The kernel reuses the KV of any earlier call that begins with the
same messages, so each call computes only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from aios.syscalls.types.chat import (
    ChatReply,
    ContextList,
    ContextName,
    ContextReply,
    ContextsOf,
    Message,
    NamedContext,
    SaveRequest,
)
from aios.syscalls.types.common import Empty

from . import sdk, session
from .chat_request import ChatOptions
from .output import Output

if TYPE_CHECKING:
    from typing import Unpack

T = TypeVar("T")
SUMMARY = "Summary of the conversation so far: "


class Context:
    """One conversation. Not thread-safe; fork it for use in another thread."""

    def __init__(self, messages: Sequence[Message] = (), *, system: str | None = None) -> None:
        self.messages: list[Message] = list(messages)
        if system is not None:
            self.messages.insert(0, Message("system", system))
        self.last: ChatReply | None = None
        self.recomputed = ""
        """The last reply."""

    def __repr__(self) -> str:
        return f"<aios.Context of {len(self.messages)} messages>"

    @overload
    def chat(
        self, text: str, *, output: None = ..., timeout: float | None = ...,
        **options: Unpack[ChatOptions],
    ) -> ChatReply: ...  # fmt: skip
    @overload
    def chat(
        self, text: str, *, output: type[T], timeout: float | None = ...,
        **options: Unpack[ChatOptions],
    ) -> T: ...  # fmt: skip
    def chat(
        self,
        text: str,
        *,
        output: Any = None,
        timeout: float | None = None,
        **options: Unpack[ChatOptions],
    ) -> Any:
        """Send a message; the reply becomes part of the context. With ``output``, a type, return a
        value of it; the reply is in ``last``. Raises the errors of ``aios.chat``."""
        said, shape = Message("user", text), None if output is None else Output(output)
        asked: Any = shape.options(options) if shape else options
        reply = self._heard(said, sdk.chat([*self.messages, said], timeout=timeout, **asked))
        return shape.value(reply, options) if shape else reply

    @overload
    async def achat(
        self, text: str, *, output: None = ..., timeout: float | None = ...,
        **options: Unpack[ChatOptions],
    ) -> ChatReply: ...  # fmt: skip
    @overload
    async def achat(
        self, text: str, *, output: type[T], timeout: float | None = ...,
        **options: Unpack[ChatOptions],
    ) -> T: ...  # fmt: skip
    async def achat(
        self,
        text: str,
        *,
        output: Any = None,
        timeout: float | None = None,
        **options: Unpack[ChatOptions],
    ) -> Any:
        """``chat`` for asyncio."""
        said, shape = Message("user", text), None if output is None else Output(output)
        asked: Any = shape.options(options) if shape else options
        reply = await sdk.achat([*self.messages, said], timeout=timeout, **asked)
        return shape.value(self._heard(said, reply), options) if shape else self._heard(said, reply)

    def _heard(self, said: Message, reply: ChatReply) -> ChatReply:
        """Append a turn, and drop from the messages what the window policy dropped."""
        if reply.window:
            head = next(
                (i for i, m in enumerate(self.messages) if m.role != "system"), len(self.messages)
            )
            kept = self.messages[head + reply.window.dropped_turns :]
            self.messages = self.messages[:head]
            if reply.window.summary:
                if self.messages and self.messages[-1].text.startswith(SUMMARY):
                    self.messages.pop()
                self.messages.append(Message("system", SUMMARY + reply.window.summary))
            self.messages += kept
        self.messages += [
            said, Message("assistant", reply.text, tool_calls=reply.tool_calls)
        ]  # fmt: skip
        self.last = reply
        return reply

    def fork(self, n: int = 2) -> list[Context]:
        """Return ``n`` independent contexts with the same messages."""
        return [Context(self.messages) for _ in range(n)]

    def clear(self) -> None:
        """Remove all messages."""
        self.messages, self.last = [], None

    def save(self, name: str) -> NamedContext:
        """Save the context under a name, for all agents of this agent's name, with the KV of this
        agent's last call. Survives the agent and the kernel.

        ``AGENT/NAME``, here and in ``restore`` and ``remove``, belongs to another agent. Raises
        ResourceExhausted if there is no room, PermissionDenied.
        """
        return session.call("context.save", SaveRequest(name, self.messages), NamedContext)

    def restore(self, name: str) -> Context:
        """Replace the messages with those saved under a name; return self. Raises NotFound.

        ``recomputed`` then tells why the next call computes the conversation again, if it does:
        its KV was saved with other weights or settings of the model.
        """
        reply = session.call("context.restore", ContextName(name), ContextReply)
        self.messages, self.last, self.recomputed = list(reply.messages), None, reply.recomputed
        return self

    @staticmethod
    def saved(agent: str | None = None) -> list[NamedContext]:
        """Return the contexts saved by this agent, or by another."""
        return session.call("context.list", ContextsOf(agent), ContextList).contexts

    @staticmethod
    def remove(name: str) -> None:
        """Delete a saved context. Raises NotFound."""
        session.call("context.remove", ContextName(name), Empty)


context = Context()
"""The agent's own context, for programs that need only one."""
