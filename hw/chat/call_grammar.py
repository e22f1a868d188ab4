"""The grammar of a reply that may call tools, in llguidance's Lark.

Text is free until a call's trigger; from there on the output is a call of one of the tools, with
arguments that its schema allows. Control tokens are named by their numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from .call_format import ARGUMENTS, GENERIC, NAME, CallFormat, Part
from .conversation import Tool

MAX_CALLS = 16
"""Limit on the calls of one turn."""
_TEXT = r"TEXT: /(.|\n)*/"
_PLAIN = r"PLAIN: /\s*([^{\s](.|\n)*)?/"
"""Text that is no object from its beginning."""


def call_grammar(
    form: CallFormat,
    tools: Sequence[Tool],
    choice: str,
    parallel: bool,
    tokens: Mapping[str, int],
    schema: Callable[[Tool], str],
) -> str:
    """Return the grammar. ``choice``: ``auto``, ``none``, ``required`` or ``=NAME``; ``tokens``:
    control tokens by their spelling; ``schema`` returns the schema of a tool's arguments for
    llguidance.
    """
    if choice == "none":
        held = form.first or form.bare
        return "\n".join(["start: PLAIN", _PLAIN] if held else ["start: TEXT", _TEXT])
    wanted = [tool for tool in tools if choice in ("auto", "required", f"={tool.name}")]
    writer = _Writer(form, tokens)
    schemas = [schema(tool) for tool in wanted]
    parts = [[tool.name if part == NAME else part for part in form.call] for tool in wanted]
    again = f"{writer.literal(form.between)} call".strip()
    several = parallel and form.parallel and choice[0] != "="
    more = f" ({again}){{0,{MAX_CALLS - 1}}}" if several else ""
    ended = f"{more} {writer.literal(form.end)}".rstrip()
    rules = _calls("call", map(writer.parts, parts, schemas))
    whole = f"calls: {writer.literal(form.begin)} call{ended}"
    if choice != "auto":
        return "\n".join(["start: calls", whole, *rules])
    if form.first:
        return "\n".join(["start: PLAIN | calls", _PLAIN, whole, *rules])
    text, bare = ("PLAIN", " | bare") if form.bare else ("TEXT", "")
    if form.bare:
        others = rf' ("\n" bare_call){{0,{MAX_CALLS - 1}}}' if more else ""
        rules.append(f"bare: bare_call{others}")
        made = [[tool.name if part == NAME else part for part in GENERIC.call] for tool in wanted]
        rules += _calls("bare_call", map(writer.parts, made, schemas))
    if form.trigger in writer.tokens:
        return "\n".join([f"start: {text} calls?{bare}", _PLAIN, _TEXT, whole, *rules])
    # The trigger is ordinary text. The rule that ends with it is lazy, and a call continues it.
    begin = form.begin.removeprefix(form.trigger)
    if not form.begin:
        for each in parts:
            each[0] = str(each[0]).removeprefix(form.trigger)
    rules += _calls("first", map(writer.parts, parts, schemas))
    opened = [f"before[lazy]: {text} {_quoted(form.trigger)}",
              f"opened: before {writer.literal(begin)} first{ended}"]  # fmt: skip
    return "\n".join([f"start: {text} | opened{bare}", _PLAIN, _TEXT, *opened, *rules])


def _calls(name: str, calls: Iterable[str]) -> list[str]:
    """Return a rule that is one of the calls, and a rule for each of them."""
    rules = {f"{name}_{index}": call for index, call in enumerate(calls)}
    return [f"{name}: {' | '.join(rules)}", *(f"{each}: {call}" for each, call in rules.items())]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Writer:
    """Writes parts of calls in Lark."""

    def __init__(self, form: CallFormat, tokens: Mapping[str, int]) -> None:
        self.tokens = {text: tokens[text] for text in _spelled(form.literals, tokens)}
        spellings = sorted(self.tokens, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, spellings)) + ")")

    def parts(self, parts: Sequence[Part], schema: str) -> str:
        """Return a sequence of parts; neighbouring texts become one."""
        merged: list[Part] = []
        for part in parts:
            if isinstance(part, str) and merged and isinstance(last := merged[-1], str):
                merged[-1] = last + part
            else:
                merged.append(part)
        written = []
        for part in merged:
            if isinstance(part, str):
                written.append(self.literal(part))
            elif part == ARGUMENTS:
                written.append(f"%json {schema}")
            else:
                written.append(f"/{part.regex}/")
        return " ".join(written)

    def literal(self, text: str) -> str:
        """Return fixed text, with control tokens by number."""
        pieces = self._split.split(text) if self.tokens else [text]
        return " ".join(
            f"<[{self.tokens[piece]}]>" if piece in self.tokens else _quoted(piece)
            for piece in pieces if piece
        )  # fmt: skip


def _spelled(literals: Sequence[str], tokens: Mapping[str, int]) -> set[str]:
    """Return the control tokens that the texts contain."""
    return {text for text in tokens if any(text in literal for literal in literals)}
