"""The turns of ``aios.act``: how the model writes calls and answers, and is told results.

Where the model's template has tools, it calls them in its own format (``OwnTurns``). Other models
are asked for JSON of a schema (``JsonTurns``); a turn that is cut off by its token limit is then
tried again with a schema whose texts fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.chat import ChatReply, ChatTool, Message, ToolCall
from aios.syscalls.types.tool import ToolSpec

from . import act_schema
from .act_drive import Plan
from .chat_request import ChatOptions

MAX_CALLS = 4
"""Limit on the calls of one turn."""
_MAX_CHARS = 240
"""Limit on the characters of a string, in the first try of a turn of JSON."""
_MAX_RESULT_CHARS = 2000
"""Limit on the characters of one result in the prompt."""
_REPEATED = " (You have just made this call. Use this result, or do something else.)"
_WORDS = r"\s*[^\s{](.|\n)*"
"""A text that says something and is no call, as a regular expression."""
_SYSTEM = """You do the user's task with tools. Write JSON only.
To call tools: {{"calls": [{{"tool": NAME, "arguments": {{...}}}}]}}
When you know the answer: {{"answer": TEXT}}
Tools:
{tools}"""


@dataclass(frozen=True)
class ToolUse:
    """One call by the model: its result, or the error that was reported to the model.

    ``repeated``: the call before had the same arguments, so it was not made again.
    """

    tool: str
    arguments: dict[str, Any]
    result: Any = None
    error: str = ""
    repeated: bool = False
    failures: int = 0
    """How often in a row it has failed."""

    @property
    def told(self) -> str:
        """The text that the model gets as the call's result."""
        text = self.result
        if self.error or not isinstance(text, str):
            text = f"error: {self.error}" if self.error else json.dumps(text, ensure_ascii=False)
        cut = len(text) - _MAX_RESULT_CHARS
        text = text[:_MAX_RESULT_CHARS] + (f" … ({cut} more)" if cut > 0 else "")
        if self.repeated:
            text += _REPEATED
        return text


@dataclass(frozen=True)
class Turn:
    """A turn that the model has written: calls, or else its answer. ``whole``: it was not cut."""

    reply: ChatReply
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answer: str = ""
    tries: int = 1
    whole: bool = True


Ask = Callable[[Sequence[Message], ChatOptions], Plan[ChatReply]]
"""Has the model write; the limit on tokens is among the options."""


class Turns(Protocol):
    """One way to write turns. ``messages`` is the conversation so far."""

    messages: list[Message]

    def write(self, limit: int, left: Callable[[], int], last: bool) -> Plan[Turn | None]:
        """Write a turn of up to ``limit`` tokens; the ``last`` is an answer. Return None if the
        tokens that are ``left`` do not suffice."""

    def tell(self, turn: Turn, uses: Sequence[ToolUse]) -> None:
        """Append a turn, and the results of its calls, to the messages."""


class OwnTurns:
    """Turns in the format of the model's own template."""

    def __init__(self, specs: Sequence[ToolSpec], task: str, about: str, ask: Ask) -> None:
        self._tools = [ChatTool(each.name, each.description, each.parameters) for each in specs]
        self._ask = ask
        self.messages = [Message("system", about)] if about else []
        self.messages.append(Message("user", task))

    def write(self, limit: int, left: Callable[[], int], last: bool) -> Plan[Turn | None]:
        """Write a turn; an empty answer is asked for again, with words demanded."""
        if limit <= 0:
            return None
        options: ChatOptions = {
            "tools": self._tools, "tool_choice": "none" if last else "auto", "tool_format": "own",
            "max_tokens": limit,
        }  # fmt: skip
        reply, tries = (yield from self._ask(self.messages, options)), 1
        if not reply.text.strip() and not reply.tool_calls and left() > 0:
            options |= {"tool_choice": "none", "regex": _WORDS, "max_tokens": min(limit, left())}
            reply, tries = (yield from self._ask(self.messages, options)), 2
        calls = [(call.name, call.arguments) for call in reply.tool_calls[:MAX_CALLS]]
        return Turn(reply, calls, reply.text.strip(), tries, reply.finish != "length")

    def tell(self, turn: Turn, uses: Sequence[ToolUse]) -> None:
        calls: list[ToolCall] = turn.reply.tool_calls[: len(uses)]
        self.messages.append(Message("assistant", turn.reply.text, tool_calls=calls))
        for call, use in zip(calls, uses, strict=True):
            self.messages.append(Message("tool", use.told, call.name, tool_call_id=call.id))


class JsonTurns:
    """Turns of JSON, for models that know no tools."""

    def __init__(self, specs: Sequence[ToolSpec], task: str, about: str, ask: Ask) -> None:
        """Raises InvalidArgument for a tool whose schema a grammar cannot express."""
        act_schema.turn(specs, 1, _MAX_CHARS, False, False)
        self._specs, self._ask = specs, ask
        text = _SYSTEM.format(tools="\n".join(map(_signature, specs)))
        self.messages = [Message("system", f"{about}\n{text}".strip()), Message("user", task)]

    def write(self, limit: int, left: Callable[[], int], last: bool) -> Plan[Turn | None]:
        if limit > 0:
            schema = act_schema.turn(self._specs, MAX_CALLS, _MAX_CHARS, False, last)
            if turn := (yield from self._turn(schema, limit, 1)):
                return turn
        for calls, chars in ((2, 120), (1, 60), (1, 24), (1, 8)):
            try:
                schema = act_schema.turn(self._specs, calls, chars, True, last)
            except InvalidArgument:  # a string that must be longer than that
                return None
            most = act_schema.max_bytes(schema) + 1  # and the end of the turn
            if most <= min(left(), max(limit, 512)):
                return (yield from self._turn(schema, most, 2))
        return None

    def _turn(self, schema: act_schema.Schema, limit: int, tries: int) -> Plan[Turn | None]:
        reply = yield from self._ask(self.messages, {"schema": schema, "max_tokens": limit})
        said = _parsed(reply.text) if reply.finish == "stop" else None
        if not said:
            return None
        calls = [(call["tool"], call["arguments"]) for call in said.get("calls", [])]
        return Turn(reply, calls, said.get("answer", ""), tries)

    def tell(self, turn: Turn, uses: Sequence[ToolUse]) -> None:
        self.messages.append(Message("assistant", turn.reply.text))
        if uses:
            lines = [f"{use.tool}: {use.told}" for use in uses]
            self.messages.append(Message("user", "\n".join(lines)))


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
