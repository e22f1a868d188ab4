"""The formats of tool calls: how each family of models writes them, and which one a template means.

A format is data. ``call`` is one call: literal text, the tool's NAME, its ARGUMENTS as JSON, and
what else must match a regular expression. The grammar (call_grammar.py) and the parser
(call_parser.py) are made from it.
"""

from __future__ import annotations

from typing import NamedTuple


class Hole(NamedTuple):
    """A part of a call that is not fixed: it matches the regular expression."""

    regex: str


NAME, ARGUMENTS = Hole("name"), Hole("arguments")
_ID, _DIGITS = Hole("[a-zA-Z0-9]{9}"), Hole("[0-9]+")
Part = str | Hole


class CallFormat(NamedTuple):
    """How calls are written. A template that contains all texts of one of ``signs`` means it.

    A turn's calls stand between ``begin`` and ``end``, separated by ``between``; without
    ``parallel`` there is only one.
    """

    name: str
    signs: tuple[tuple[str, ...], ...]
    call: tuple[Part, ...]
    begin: str = ""
    between: str = ""
    end: str = ""
    parallel: bool = True
    trigger: str = "{"
    """The text that calls begin with, and other text does not."""
    bare: bool = False
    """Models of this family also write calls in the generic format, at the beginning of the text.
    Small ones forget the marks."""

    @property
    def first(self) -> bool:
        """Calls must be the beginning of the text: the trigger alone tells too little."""
        return self.trigger == "{"

    @property
    def literals(self) -> tuple[str, ...]:
        """All fixed texts."""
        return (self.begin, *(part for part in self.call if isinstance(part, str)), self.end)


def _object(name: str, arguments: str, before: str = "", after: str = "") -> tuple[Part, ...]:
    return (f'{before}{{"{name}": "', NAME, f'", "{arguments}": ', ARGUMENTS, "}" + after)


GENERIC = CallFormat("json", (), _object("name", "arguments"), between="\n")
"""For models whose template has no tools, or whose format is not known: they are told of it."""

FORMATS = (
    CallFormat("mistral", (("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),),
               ("[TOOL_CALLS]", NAME, "[CALL_ID]", _ID, "[ARGS]", ARGUMENTS),
               trigger="[TOOL_CALLS]"),
    CallFormat("mistral", (("[TOOL_CALLS]", "[ARGS]"),),
               ("[TOOL_CALLS]", NAME, "[ARGS]", ARGUMENTS), trigger="[TOOL_CALLS]"),
    CallFormat("mistral", (("[TOOL_CALLS]",),),
               ('{"name": "', NAME, '", "arguments": ', ARGUMENTS, ', "id": "', _ID, '"}'),
               begin="[TOOL_CALLS][", between=", ", end="]", trigger="[TOOL_CALLS]"),
    CallFormat("deepseek", (("<｜tool▁calls▁begin｜>", "```json"),),
               ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", NAME, "\n```json\n", ARGUMENTS,
                "\n```<｜tool▁call▁end｜>"),
               begin="<｜tool▁calls▁begin｜>", between="\n", end="<｜tool▁calls▁end｜>",
               trigger="<｜tool▁calls▁begin｜>"),
    CallFormat("deepseek", (("<｜tool▁calls▁begin｜>",),),
               ("<｜tool▁call▁begin｜>", NAME, "<｜tool▁sep｜>", ARGUMENTS, "<｜tool▁call▁end｜>"),
               begin="<｜tool▁calls▁begin｜>", end="<｜tool▁calls▁end｜>",
               trigger="<｜tool▁calls▁begin｜>"),
    CallFormat("kimi", (("<|tool_calls_section_begin|>",),),
               ("<|tool_call_begin|>functions.", NAME, ":", _DIGITS,
                "<|tool_call_argument_begin|>", ARGUMENTS, "<|tool_call_end|>"),
               begin="<|tool_calls_section_begin|>", end="<|tool_calls_section_end|>",
               trigger="<|tool_calls_section_begin|>"),
    CallFormat("command", (("<|START_ACTION|>", "tool_name"),),
               ('    {"tool_call_id": "', _DIGITS, '", "tool_name": "', NAME, '", "parameters": ',
                ARGUMENTS, "}"),
               begin="<|START_ACTION|>[\n", between=",\n", end="\n]<|END_ACTION|>",
               trigger="<|START_ACTION|>"),
    CallFormat("functools", (("functools[",),), _object("name", "arguments"),
               begin="functools[", between=", ", end="]", trigger="functools["),
    CallFormat("hermes", (("<tool_call>", '"arguments": '), ("<tool_call>", "<args-json-object>"),
                          ("<tool_call>", '\\"arguments\\"'), ("<tool_call>", "'arguments'"),
                          ("<tool_call>", '"arguments":')),
               _object("name", "arguments", "<tool_call>\n", "\n</tool_call>"), between="\n",
               trigger="<tool_call>", bare=True),
    CallFormat("granite", (("<|tool_call|>", "<|/tool_call|>"),), _object("name", "arguments"),
               begin="<|tool_call|>[", between=", ", end="]<|/tool_call|>",
               trigger="<|tool_call|>"),
    CallFormat("granite", (("<|tool_call|>",),), _object("name", "arguments"),
               begin="<|tool_call|>[", between=", ", end="]", trigger="<|tool_call|>"),
    CallFormat("llama", (("ipython", '"parameters": '), ("ipython", '\\"parameters\\"')),
               _object("name", "parameters"), parallel=False),
)  # fmt: skip
"""The first whose signs a template has is meant; the more particular stand first."""

_FOREIGN = ("<function=", "<arg_key>", "<|tool_call>", "<tool_calls>")
"""Signs of formats that are not JSON; templates that have one are told of the generic format."""


def call_format(template: str) -> CallFormat:
    """Return the format that a template means."""
    if not any(sign in template for sign in _FOREIGN):
        for form in FORMATS:
            if any(all(text in template for text in signs) for signs in form.signs):
                return form
    return GENERIC
