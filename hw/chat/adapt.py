"""Adapting a conversation to what its template can render.

A template without a system role gets system text in a user's turn; one that demands strict
alternation gets merged turns; one without tools gets calls and results as text. Nothing is left
out, and each change has a note, which the reply repeats.
"""

from __future__ import annotations

import json

from .call_parser import short_id
from .conversation import Message, Tool, Turn, as_function, as_turn
from .traits import Traits, in_parts

_GAP = "\n\n"
SYSTEM_IN_USER = "system text put into a user turn"
SYSTEMS_MERGED = "system messages merged"
TURNS_MERGED = "turns of one role merged"
CALLS_AS_TEXT = "tool calls and results written as text"
TOOLS_TOLD = "tools described in the system text"
_TOOLS = (
    'You can call tools. To call one, write only {"name": NAME, "arguments": {...}}, nothing '
    "before it; for several calls write one on each line. Otherwise answer in plain text.\nTools:\n"
)
BEGINNING_ADDED = "a user turn added before the first"


def adapted(messages: list[Message], traits: Traits) -> tuple[list[Turn], list[str]]:
    """Return the turns for the template, and notes on what was changed."""
    notes: list[str] = []
    if not traits.calls:
        messages = _without_calls(messages, notes)
    if not traits.developer:
        messages = [_with_role(m, "system") if m.role == "developer" else m for m in messages]
    messages = _systems_placed(messages, traits, notes)
    if not traits.repeated:
        messages = _merged(messages, notes)
    if not traits.assistant_first and (opening := _first_speaker(messages)) is not None:
        messages = [*messages[:opening], Message("user", "…"), *messages[opening:]]
        notes.append(BEGINNING_ADDED)
    turns = [_turn(message, traits) for message in messages]
    return turns, list(dict.fromkeys(notes))


def tools_told(messages: list[Message], tools: list[Tool]) -> list[Message]:
    """Return the messages with the tools, and how to call them, at the end of the system text."""
    listed = "\n".join(json.dumps(as_function(tool)["function"], ensure_ascii=False)
                       for tool in tools)  # fmt: skip
    head = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    before = [message.content for message in messages[:head]]
    return [Message("system", _GAP.join([*before, _TOOLS + listed])), *messages[head:]]


def _with_role(message: Message, role: str) -> Message:
    return Message(role, message.content, message.name, message.calls, message.call_id)


def _with_content(message: Message, content: str) -> Message:
    return Message(message.role, content, message.name, message.calls, message.call_id)


def _without_calls(messages: list[Message], notes: list[str]) -> list[Message]:
    """Return the messages with calls and results as text of the assistant and the user."""
    made = []
    for message in messages:
        if message.calls:
            lines = [json.dumps({"name": call.name, "arguments": call.values},
                                ensure_ascii=False) for call in message.calls]  # fmt: skip
            text = "\n".join([message.content, *lines] if message.content else lines)
            message = Message("assistant", text, message.name)
            notes.append(CALLS_AS_TEXT)
        elif message.role == "tool":
            message = Message("user", f"Result of {message.name or 'the tool'}: {message.content}")
            notes.append(CALLS_AS_TEXT)
        made.append(message)
    return made


def _systems_placed(messages: list[Message], traits: Traits, notes: list[str]) -> list[Message]:
    """Return the messages with system text only where the template shows it."""
    head = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    leading, rest = messages[:head], messages[head:]
    if len(leading) > 1 and traits.system and not traits.systems:
        leading = [Message("system", _GAP.join(message.content for message in leading))]
        notes.append(SYSTEMS_MERGED)
    if traits.system:
        kept, moving = leading, []
    else:
        kept, moving = [], [message.content for message in leading]
    for message in rest:
        if message.role == "system" and not traits.later_system:
            moving.append(message.content)
        elif moving and message.role == "user":
            kept.append(_with_content(message, _GAP.join([*moving, message.content])))
            notes.append(SYSTEM_IN_USER)
            moving = []
        elif moving and message.role == "assistant":
            kept += [Message("user", _GAP.join(moving)), message]
            notes.append(SYSTEM_IN_USER)
            moving = []
        else:
            kept.append(message)
    if moving:
        kept.append(Message("user", _GAP.join(moving)))
        notes.append(SYSTEM_IN_USER)
    return kept


def _merged(messages: list[Message], notes: list[str]) -> list[Message]:
    made: list[Message] = []
    for message in messages:
        last = made[-1] if made else None
        if (
            last is not None and message.role == last.role and message.role in ("user", "assistant")
            and not last.calls and not message.calls
        ):  # fmt: skip
            made[-1] = _with_content(last, _GAP.join([last.content, message.content]))
            notes.append(TURNS_MERGED)
        else:
            made.append(message)
    return made


def _first_speaker(messages: list[Message]) -> int | None:
    """Return the index of the first message after system text if it is not the user's."""
    for index, message in enumerate(messages):
        if message.role != "system":
            return None if message.role == "user" else index
    return None


def _turn(message: Message, traits: Traits) -> Turn:
    turn = as_turn(message)
    for call, made in zip(message.calls, turn.get("tool_calls", []), strict=True):
        if traits.text_arguments:
            made["function"]["arguments"] = call.arguments
        if traits.short_ids:
            made["id"] = _short(call.id)
    if traits.short_ids and message.call_id is not None:
        turn["tool_call_id"] = _short(message.call_id)
    return in_parts(turn) if traits.parts and message.content else turn


def _short(call_id: str) -> str:
    """Return an id of nine letters and digits for any id: the id itself if it is one."""
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return short_id(call_id)
