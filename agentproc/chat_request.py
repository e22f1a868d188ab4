"""The request of ``aios.chat``, made from what programs pass: texts, dicts, functions, types.

Messages and tools may also come in the chat-completion format of other libraries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import msgspec

from aios.syscalls import codec
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.chat import ChatRequest, ChatTool, Message, ToolCall, ToolChoice

from .tool import Tool, tool

Prompt = str | Sequence[Message | Mapping[str, Any]]


class TextOptions(TypedDict, total=False):
    """Options of a generation; ChatRequest has the defaults and limits.

    ``model``: a name or path, by default the agent's model. ``seed``: 0 by default, so the same
    call gives the same text; None draws one. ``stop``: strings that end the text. At most one of
    these holds the text: ``schema``, a JSON schema (dict or text); ``grammar``, in GBNF; ``regex``,
    which the whole text matches; ``lark``, a grammar of llguidance's; ``choice``, texts of which it
    is one. ``window``: what to do when the messages outgrow the context window; the reply's
    ``window`` says what was done.
    ``expected_tokens``: estimated length of the reply, for the policy ``srtf``. ``recall``: limit
    on notes from memory (``recall_scopes``, by default the agent's own) that match the last message
    and are put before it; the reply's ``recalled`` lists them with their scores. Notes with a score
    below ``recall_min`` (0 to 1, 0.5 by default) are not recalled.
    ``thinking``: turn the model's reasoning on or off, if its template can. ``date`` (YYYY-MM-DD):
    the day that a template tells the model, today by default.
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
    regex: str
    lark: str
    choice: Sequence[str]
    window: Literal["error", "truncate", "summarise"]
    expected_tokens: int
    recall: int
    recall_scopes: list[str]
    recall_min: float
    thinking: bool
    date: str


class ChatOptions(TextOptions, total=False):
    """Options of a generation that may call tools.

    ``tools``: what the model may call: names of the kernel's tools, functions, or declarations with
    ``name``, ``description`` and ``parameters``. The caller makes the reply's ``tool_calls``.
    ``tool_choice``: ``auto``, ``none``, ``required`` or ``{"name": NAME}``. ``tool_format``: with
    ``own`` a model whose template has no tools is not told of them; ToolsUnsupported is raised.
    """

    tools: Sequence[str | Tool[..., Any] | Callable[..., Any] | ChatTool | Mapping[str, Any]]
    tool_choice: Literal["auto", "none", "required"] | Mapping[str, Any]
    parallel_tool_calls: bool
    tool_format: Literal["any", "own"]


def request(prompt: Prompt, options: Mapping[str, Any], *, streamed: bool) -> ChatRequest:
    """Return the request of ``aios.chat``. Raises InvalidArgument."""
    values: dict[str, Any] = dict(options)
    system, schema = values.pop("system", None), values.pop("schema", None)
    messages = [Message("system", system)] if system is not None else []
    if isinstance(prompt, str):
        messages.append(Message("user", prompt))
    else:
        messages += [_message(turn) for turn in prompt]
    if schema is not None:
        values["json_schema"] = schema if isinstance(schema, str) else json.dumps(schema)
    if not isinstance(values.get("choice", []), list):
        values["choice"] = list(values["choice"])
    if "tools" in values:
        values["tools"] = [_tool(each) for each in values["tools"]]
    if isinstance(choice := values.get("tool_choice"), Mapping):
        named = choice.get("function", choice)
        values["tool_choice"] = codec.convert({"name": named.get("name")}, ToolChoice)
    unknown = sorted(set(values) - set(ChatRequest.__struct_fields__))
    if unknown:
        known = ", ".join(sorted(ChatOptions.__annotations__))
        raise InvalidArgument(f"unknown option {unknown[0]!r}", f"options: {known}")
    return ChatRequest(messages=messages, stream=streamed, **values)


def _tool(given: Any) -> str | ChatTool:
    """Return a tool as the request has it. Raises InvalidArgument."""
    if isinstance(given, str | ChatTool):
        return given
    if isinstance(given, Mapping):
        values = dict(given.get("function", given))
        if not isinstance(values.get("parameters", ""), str):
            values["parameters"] = _json(values["parameters"])
        known = {key: values[key] for key in ChatTool.__struct_fields__ if key in values}
        return codec.convert(known, ChatTool)
    if not callable(given):
        raise InvalidArgument(f"a tool is a name, a function or a declaration; got {given!r}")
    spec = (given if isinstance(given, Tool) else tool(given)).spec
    return ChatTool(spec.name, spec.description, spec.parameters)


def _message(turn: Message | Mapping[str, Any]) -> Message:
    """Return a turn as a message: a dict in the chat-completion format, other keys ignored."""
    if isinstance(turn, Message):
        return turn
    try:
        known = {key: turn[key] for key in Message.__struct_fields__ if key in turn}
        if not {"content", "tool_calls"} & known.keys():
            raise KeyError("content")
        calls = [_call(each) for each in known.pop("tool_calls", None) or []]
        return codec.convert({**known, "tool_calls": calls}, Message)
    except (KeyError, TypeError, AttributeError):
        raise InvalidArgument(f"a message has role and content; got {turn!r}") from None


def _call(call: ToolCall | Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call, also in the form with ``function``, as fields of ToolCall."""
    if isinstance(call, ToolCall):
        return msgspec.structs.asdict(call)
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = _json(arguments)
    return {"id": call["id"], "name": function["name"], "arguments_json": arguments}


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{str(value)[:80]} is not JSON: {error}") from None
