"""The types of a conversation, as kernel and core exchange it and as templates are given it."""

from __future__ import annotations

import json
from typing import Any

import msgspec


class Call(msgspec.Struct, frozen=True):
    """A tool call by the model. ``arguments``: a JSON object as text."""

    id: str
    name: str
    arguments: str


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

    ``parallel``: a turn may have several calls. ``thinking``: None leaves it to the template.
    ``date``: the day that the template is told, YYYY-MM-DD; empty: 1970-01-01.
    """

    messages: list[Message]
    tools: list[Tool] = []
    choice: str = "auto"
    parallel: bool = True
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
             "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
            for call in message.calls
        ]  # fmt: skip
    if message.call_id is not None:
        turn["tool_call_id"] = message.call_id
    return turn


def as_function(tool: Tool) -> dict[str, Any]:
    """Return a tool as templates expect it."""
    function = {"name": tool.name, "description": tool.description,
                "parameters": json.loads(tool.parameters)}  # fmt: skip
    return {"type": "function", "function": function}
