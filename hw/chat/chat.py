"""Chat: makes the prompt of a conversation, with the model's own template where it has one.

Owns the template process. Promises that text of the caller never becomes a control token, that the
same conversation gives the same tokens, and that a conversation is either rendered whole, refused
with a reason, or changed in ways that the prompt's notes name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from aios.hw.engine.engine import ChatSource, Engine, InvalidInput, Tokens

from . import formats
from .adapt import adapted
from .conversation import Conversation, Message, as_function
from .plain_text import PlainText
from .renderer import Renderer
from .reply_format import THINKING, ReplyFormat, thinking_marks
from .traits import Traits, traits_of

NO_TEMPLATE = "the model's file has no chat template; {} is used"


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
        turns, notes = adapted(talk.messages, traits)
        variables = self._plain.marked({
            "messages": turns, "tools": [as_function(tool) for tool in talk.tools] or None
        })  # fmt: skip
        if talk.thinking is not None:
            variables |= {"enable_thinking": talk.thinking, "thinking": talk.thinking}
        text = self._draw(template, variables, talk.date)
        return Prompt(self._tokens(text), self._format(template, text), notes)

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
        turns, notes = adapted(talk.messages, Traits())
        text = write(self._plain.marked(turns), self._source.begin)
        begin, end = thinking_marks("", self._known_tokens())
        made = ReplyFormat(think_begin=begin, think_end=end,
                           stop=() if is_chatml else formats.PLAIN_STOP)  # fmt: skip
        if not self._source.native:
            notes = [NO_TEMPLATE.format(name), *notes]
        return Prompt(self._tokens(text), made, notes)

    def _format(self, template: str, text: str) -> ReplyFormat:
        begin, end = thinking_marks(template, self._known_tokens())
        return ReplyFormat(
            think_begin=begin, think_end=end, thinking=bool(begin) and text.rstrip().endswith(begin)
        )

    def _known_tokens(self) -> set[str]:
        return {*self._source.control, *self._source.user_defined}

    def _tokens(self, text: str) -> Tokens:
        return self._engine.tokenize(self._plain.parts(text))


def user_prompt(engine: Engine, text: str) -> Tokens:
    """Return the prompt of one user's message; for benchmarks."""
    chat = Chat(engine)
    try:
        return chat.prompt(Conversation(messages=[Message("user", text)])).tokens
    finally:
        chat.close()
