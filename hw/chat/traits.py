"""The traits of a chat template: which conversations it renders, found by rendering small ones.

A template may refuse a message, or leave it out without a word. So each probe holds words that
appear nowhere else, and asks whether the text shows them, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from aios.hw.engine.engine import InvalidInput

from .conversation import Turn

Draw = Callable[[dict[str, Any]], str]
"""Renders the template with variables. Raises InvalidInput."""

_SYSTEM, _FIRST, _REPLY, _SECOND = "Qsyswordq", "Qfirstwordq", "Qreplywordq", "Qsecondwordq"
_TOOL, _ARGUMENT, _RESULT = "qtoolwordq", "Qargumentwordq", "Qresultwordq"
_LONG_ID, _SHORT_ID = "call_0123456789abcdef", "abcdef123"
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": _TOOL, "description": "Look a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}},
                       "required": ["word"]},
    },
}  # fmt: skip


class Traits(msgspec.Struct, frozen=True):
    """The kinds of conversations that a template can render."""

    problem: str = ""
    """The reason why it renders not even one user's turn."""
    parts: bool = False
    """Content must be a list of parts."""
    tool_list: bool = False
    """Tools must be a list, if there are none, too."""
    system: bool = True
    """A system message at the beginning."""
    systems: bool = True
    """Several system messages at the beginning."""
    later_system: bool = True
    """System messages elsewhere."""
    repeated: bool = True
    """Turns of one role in a row."""
    assistant_first: bool = True
    developer: bool = False
    """The role ``developer``."""
    tools: bool = False
    """Declarations of tools."""
    calls: bool = False
    """Calls in an assistant's turn, and turns of the role ``tool``."""
    text_arguments: bool = False
    """The arguments of a call must be JSON text, not an object."""
    short_ids: bool = False
    """Ids of calls must be nine letters and digits."""


def traits_of(draw: Draw) -> Traits:
    """Probe a template."""
    problem = "the chat template does not show the user's message"
    for parts, tool_list in ((False, False), (False, True), (True, False)):
        user = {"role": "user", "content": _FIRST}
        given: dict[str, Any] = {"messages": [in_parts(user) if parts else user]}
        try:
            if _FIRST in draw({"tools": [], **given} if tool_list else given):
                return _Probe(draw, parts, tool_list).traits()
        except InvalidInput as error:
            problem = str(error)
    return Traits(problem=problem)


class _Probe:
    def __init__(self, draw: Draw, parts: bool, tool_list: bool) -> None:
        self._draw, self._parts, self._tool_list = draw, parts, tool_list

    def traits(self) -> Traits:
        system = [("system", _SYSTEM)]
        turns = [("user", _FIRST), ("assistant", _REPLY), ("user", _SECOND)]
        text_arguments, ids, calls = self._call_style()
        return Traits(
            parts=self._parts,
            tool_list=self._tool_list,
            system=self._shows([*system, ("user", _FIRST)]),
            systems=self._shows([*system, ("system", _REPLY), ("user", _FIRST)]),
            later_system=self._shows([*turns[:2], *system, turns[2]]),
            repeated=self._shows([("user", _FIRST), ("user", _SECOND)])
            and self._shows([turns[0], ("assistant", _REPLY), ("assistant", _RESULT), turns[2]]),
            assistant_first=self._shows(turns[1:]),
            developer=self._shows([("developer", _SYSTEM), ("user", _FIRST)]),
            tools=self._shows([("user", _FIRST)], [_TOOL], tools=[PROBE_TOOL]),
            calls=calls, text_arguments=text_arguments, short_ids=ids == _SHORT_ID,
        )  # fmt: skip

    def _shows(
        self, turns: Sequence[tuple[str, str]], also: Sequence[str] = (), **variables: Any
    ) -> bool:
        messages = [{"role": role, "content": content} for role, content in turns]
        text = self._text(messages, **variables)
        words = [content for _, content in turns if content != _SYSTEM]
        places = [text.find(word) for word in words]
        shown = _SYSTEM in text or all(content != _SYSTEM for _, content in turns)
        return shown and -1 not in places and places == sorted(places) and all(
            word in text for word in also
        )  # fmt: skip

    def _text(self, messages: list[Turn], **variables: Any) -> str:
        if self._parts:
            messages = [in_parts(each) if each["content"] else each for each in messages]
        tools: dict[str, Any] = {"tools": []} if self._tool_list else {}
        try:
            return self._draw({**tools, "messages": messages, **variables})
        except InvalidInput:
            return ""

    def _call_style(self) -> tuple[bool, str, bool]:
        """Find how calls must be written: arguments as text, the id, and if it works at all."""
        for as_text in (False, True):
            for call_id in (_LONG_ID, _SHORT_ID):
                text = self._text(_called(as_text, call_id), tools=[PROBE_TOOL])
                words = (_TOOL, _ARGUMENT, _RESULT)
                if all(word in text for word in words) and f"': '{_ARGUMENT}" not in text:
                    return as_text, call_id, True
        return False, _LONG_ID, False


def _called(as_text: bool, call_id: str) -> list[Turn]:
    arguments: Any = {"word": _ARGUMENT}
    if as_text:
        arguments = f'{{"word": "{_ARGUMENT}"}}'
    call = {"id": call_id, "type": "function",
            "function": {"name": _TOOL, "arguments": arguments}}  # fmt: skip
    return [
        {"role": "user", "content": _FIRST},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": _RESULT, "name": _TOOL, "tool_call_id": call_id},
    ]


def in_parts(message: Turn) -> Turn:
    """Return a turn with its content as a list of parts."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
