"""Chat: makes the prompt of a conversation, with the model's own template where it has one.

Owns the template process. Promises that text of the caller never becomes a control token, that the
same conversation gives the same tokens, and that a conversation is either rendered whole, refused
with a reason, or changed in ways that the prompt's notes name.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec

from aios.hw.engine.engine import ChatSource, Engine, InvalidInput, Tokens
from aios.hw.schema.document import UnsupportedSchema
from aios.hw.schema.guided import guided_schema

from . import formats
from .adapt import TOOLS_TOLD, adapted, tools_told
from .call_format import GENERIC, CallFormat, call_format
from .call_grammar import call_grammar
from .conversation import Conversation, Message, Tool, as_function
from .plain_text import PlainText
from .renderer import Renderer
from .reply_format import THINKING, ReplyFormat, thinking_marks
from .traits import Traits, traits_of

NO_TEMPLATE = "the model's file has no chat template; {} is used"


class NoToolsError(InvalidInput):
    """The model has no format of its own for tool calls."""


class Prompt(NamedTuple):
    """A prompt's tokens, how to read the reply, and notes on how the conversation was adapted."""

    tokens: Tokens
    format: ReplyFormat
    notes: list[str]


class Chat:
    """The conversations with one model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._source: ChatSource = engine.chat_source
        self._renderer = Renderer()
        self._plain = PlainText(self._source.control, self._structural())
        self._traits: dict[str, Traits] = {}
        self._known = {*self._source.control, *self._source.user_defined}

    def _structural(self) -> list[str]:
        """Return the tokens that no one calls control tokens and that yet have a meaning."""
        source = self._source
        known = "".join([*source.templates.values(), *(mark for pair in THINKING for mark in pair)])
        return [text for text in source.user_defined if text[0] in "<[" and text in known]

    def start(self) -> None:
        """Start the template process early, if there is a template."""
        if self._source.templates:
            self._renderer.start()

    def close(self) -> None:
        """End the template process. Idempotent."""
        self._renderer.close()

    def prompt(self, talk: Conversation) -> Prompt:
        """Return the prompt of a conversation, up to the assistant's turn. Raises InvalidInput."""
        template = self._template(talk)
        if not template:
            return self._without_template(talk)
        traits = self._traits_of(template)
        messages, calls, notes = talk.messages, call_format(template), []
        native = traits.tools and calls is not GENERIC
        if not native:
            talk = _foreign(talk)
        if talk.tools and not native:
            messages, notes, calls = tools_told(messages, talk.tools), [TOOLS_TOLD], GENERIC
            traits = msgspec.structs.replace(traits, calls=False)
        turns, changes = adapted(messages, traits)
        tools = [as_function(tool) for tool in talk.tools] if native else []
        none: list[Any] | None = [] if traits.tool_list else None
        variables = self._plain.marked({"messages": turns, "tools": tools or none})
        if talk.thinking is not None:
            variables |= {"enable_thinking": talk.thinking, "thinking": talk.thinking}
        text = self._draw(template, variables, talk.date)
        begin, end = thinking_marks(template, self._known)
        opened = bool(begin) and text.rstrip().endswith(begin)
        form = self._called(
            talk, calls, ReplyFormat(think_begin=begin, think_end=end, thinking=opened)
        )
        return Prompt(self._tokens(text), form, [*notes, *changes])

    def _template(self, talk: Conversation) -> str:
        templates = self._source.templates
        named = templates.get("tool_use") if talk.tools else None
        return named or templates.get("", "") or templates.get("default", "")

    def _traits_of(self, template: str) -> Traits:
        """Return what the template renders. Raises InvalidInput if that is nothing."""
        traits = self._traits.get(template)
        if traits is None:
            traits = self._traits[template] = traits_of(lambda given: self._draw(template, given))
        if traits.problem:
            raise InvalidInput(f"the model's chat template cannot be used: {traits.problem}")
        return traits

    def _draw(self, template: str, variables: dict[str, Any], date: str = "") -> str:
        source = self._source
        given = {"tools": None, "documents": None, "add_generation_prompt": True,
                 "bos_token": source.begin, "eos_token": source.end, **variables}  # fmt: skip
        return self._renderer.render(template, given, date)

    def _without_template(self, talk: Conversation) -> Prompt:
        is_chatml = all(token in self._source.control for token in formats.CHATML_TOKENS)
        write, name = (formats.chatml, "ChatML") if is_chatml else (formats.plain, "a plain format")
        notes = [] if self._source.native else [NO_TEMPLATE.format(name)]
        talk = _foreign(talk)
        messages = talk.messages
        if talk.tools:
            messages = tools_told(messages, talk.tools)
            notes.append(TOOLS_TOLD)
        turns, changes = adapted(messages, Traits())
        text = write(self._plain.marked(turns), self._source.begin)
        begin, end = thinking_marks("", self._known)
        form = ReplyFormat(think_begin=begin, think_end=end,
                           stop=() if is_chatml else formats.PLAIN_STOP)  # fmt: skip
        return Prompt(self._tokens(text), self._called(talk, GENERIC, form), [*notes, *changes])

    def _called(self, talk: Conversation, calls: CallFormat, form: ReplyFormat) -> ReplyFormat:
        """Return the format of a reply that may call the conversation's tools."""
        if not talk.tools:
            return form
        named = {text: token for text, token in self._source.user_defined.items()
                 if text[0] == "<" and text[-1] == ">"}  # fmt: skip
        grammar = call_grammar(
            calls, talk.tools, talk.choice, talk.parallel, {**named, **self._source.control},
            _arguments,
        )  # fmt: skip
        names = tuple(tool.name for tool in talk.tools if talk.choice != "none")
        return msgspec.structs.replace(
            form, tools=names, calls=calls._replace(signs=()), grammar=grammar
        )

    def _tokens(self, text: str) -> Tokens:
        return self._engine.tokenize(self._plain.parts(text))


def _foreign(talk: Conversation) -> Conversation:
    """Return a conversation for a model that knows no tools. Raises NoToolsError."""
    if talk.tools and talk.own_format:
        raise NoToolsError("the model's chat template has no tools, or an unknown format of calls")
    return msgspec.structs.replace(talk, tools=[]) if talk.choice == "none" else talk


def _arguments(tool: Tool) -> str:
    """Return the schema of a tool's arguments for the grammar. Raises InvalidInput."""
    parameters = as_function(tool)["function"]["parameters"]
    try:
        return guided_schema(json.dumps({"type": "object", **parameters}))
    except UnsupportedSchema as error:
        raise InvalidInput(f"the schema of the tool {tool.name} cannot be used: {error}") from None


def user_prompt(engine: Engine, text: str) -> Tokens:
    """Return the prompt of one user's message; for benchmarks."""
    chat = Chat(engine)
    try:
        return chat.prompt(Conversation(messages=[Message("user", text)])).tokens
    finally:
        chat.close()
