"""The types of a conversation, as kernel and core exchange it and as templates are given it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from aios.hw.engine.engine import InvalidInput


class Call(msgspec.Struct, frozen=True):
    """A tool call by the model. ``arguments``: a JSON object as text."""

    id: str
    name: str
    arguments: str

    @property
    def values(self) -> dict[str, Any]:
        """The arguments as Python values. Raises InvalidInput."""
        return _object(self.arguments, f"the arguments of the call {self.id} of {self.name}")


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation. ``calls``: what an assistant's turn calls; ``call_id``: the call
    that a turn of the role ``tool`` answers; ``name``: who speaks, or the tool that answers."""

    role: str
    content: str = ""
    name: str | None = None
    calls: list[Call] = []
    call_id: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that the model may call. ``parameters``: a JSON schema of an object, as text."""

    name: str
    description: str
    parameters: str


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """All that a prompt is made of. ``choice``: ``auto``, ``none``, ``required`` or ``=NAME``.

    ``parallel``: a turn may have several calls. ``own_format``: refuse tools if the template has
    none. ``thinking``: None leaves it to the template. ``date``: the day that the template is told,
    YYYY-MM-DD; empty: 1970-01-01.
    """

    messages: list[Message]
    tools: list[Tool] = []
    choice: str = "auto"
    parallel: bool = True
    own_format: bool = False
    thinking: bool | None = None
    date: str = ""


Turn = dict[str, Any]
"""A message as templates expect it: the chat-completion format."""


def as_turn(message: Message) -> Turn:
    """Return a message as templates expect it; arguments are objects."""
    turn: Turn = {"role": message.role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function",
             "function": {"name": call.name, "arguments": call.values}}
            for call in message.calls
        ]  # fmt: skip
    if message.call_id is not None:
        turn["tool_call_id"] = message.call_id
    return turn


def as_function(tool: Tool) -> dict[str, Any]:
    """Return a tool as templates expect it."""
    parameters = _object(tool.parameters, f"the parameters of {tool.name}")
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} are not a JSON object: {text[:80]}")
    return value
