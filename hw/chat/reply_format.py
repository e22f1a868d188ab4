"""The reply format: how a model's output divides into reasoning, text and tool calls."""

from __future__ import annotations

from collections.abc import Container

import msgspec

from .call_format import GENERIC, CallFormat

THINKING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>",
     "<|end|><|start|>assistant<|channel|>final<|message|>"),
)  # fmt: skip
"""The marks around reasoning, of the model families that write any."""


class ReplyFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How to read a reply. ``think_begin`` and ``think_end``: marks around reasoning, or empty.

    ``thinking``: the prompt has opened the reasoning. ``stop``: strings that end the text, besides
    the request's. ``tools``: the names of the tools that may be called, ``calls``: how
    they are written, ``grammar``: what text and calls are held to, in Lark.
    """

    think_begin: str = ""
    think_end: str = ""
    thinking: bool = False
    stop: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    calls: CallFormat = GENERIC
    grammar: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """The spellings of control tokens that must be seen in the output."""
        thinking = (self.think_begin, self.think_end) if self.think_end else ()
        return (*thinking, *self.calls.literals) if self.tools else thinking


def thinking_marks(template: str, spellings: Container[str]) -> tuple[str, str]:
    """Return the marks around the reasoning that a template or a vocabulary knows, or empty."""
    for begin, end in THINKING:
        if begin in template or end in template:
            return begin, end
    for begin, end in THINKING:
        if begin in spellings and end in spellings:
            return begin, end
    return "", ""
