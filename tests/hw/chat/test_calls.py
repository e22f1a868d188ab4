"""Tool calls: each family's format, held by its grammar and read by its parser."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from aios.hw.chat.call_format import (
    ARGUMENTS,
    FORMATS,
    GENERIC,
    NAME,
    CallFormat,
    call_format,
)
from aios.hw.chat.call_grammar import MAX_CALLS, call_grammar
from aios.hw.chat.call_parser import parsed_calls
from aios.hw.chat.conversation import Tool

ADD = Tool("add", "Add.", json.dumps({
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/n"}},
    "required": ["a", "b"], "additionalProperties": False, "$defs": {"n": {"type": "integer"}},
}))  # fmt: skip
SAY = Tool("shop.say-it", "Say.", json.dumps({
    "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"],
    "additionalProperties": False,
}))  # fmt: skip
TOOLS = [ADD, SAY]
ONE, TWO = ("add", '{"a": 1, "b": -2}'), ("shop.say-it", '{"text": "a } ] </tool_call> \\"é"}')
ALL = [*FORMATS, GENERIC]
SPECIALS = ["<tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|START_ACTION|>", "<|END_ACTION|>",
            "<|tool_call|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"]  # fmt: skip


class _Bytes:
    """A vocabulary of bytes, an end, and control tokens."""

    bos_token_id, eos_token_id = None, 256

    def __init__(self, specials: Sequence[str]) -> None:
        self.numbers = {text: 257 + number for number, text in enumerate(specials)}
        self.tokens = [bytes([byte]) for byte in range(256)] + [b"\xff<end>"]
        self.tokens += [b"\xff" + text.encode() for text in specials]
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)

    def tokenized(self, text: str) -> list[int]:
        """Return the tokens of a text with its control tokens, and the end."""
        tokens, at = [], 0
        while at < len(text):
            for special, number in self.numbers.items():
                if text.startswith(special, at):
                    tokens.append(number)
                    at += len(special)
                    break
            else:
                tokens += text[at].encode()
                at += 1
        return [*tokens, 256]


PLAIN, NAMED = _Bytes([]), _Bytes(SPECIALS)


def _accepts(vocabulary: _Bytes, grammar: str, text: str) -> bool:
    tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), len(vocabulary.tokens), [256])
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
    assert not matcher.is_error(), (matcher.get_error(), grammar)
    tokens = vocabulary.tokenized(text)
    done = matcher.validate_tokens(tokens[:-1])
    return done == len(tokens) - 1 and matcher.consume_tokens(tokens[:-1]) and bool(
        matcher.is_accepting()
    )  # fmt: skip


def _written(form: CallFormat, *calls: tuple[str, str]) -> str:
    said = []
    for name, arguments in calls:
        holes = {NAME: name, ARGUMENTS: arguments}
        parts = [part if isinstance(part, str) else
                 holes.get(part) or ("123456789" if "{9}" in part.regex else "0")
                 for part in form.call]  # fmt: skip
        said.append("".join(parts))
    return form.begin + form.between.join(said) + form.end


def _grammar(form: CallFormat, vocabulary: _Bytes, choice: str = "auto", many: bool = True) -> str:
    return call_grammar(form, TOOLS, choice, many, vocabulary.numbers, lambda t: t.parameters)


@pytest.mark.parametrize("vocabulary", [PLAIN, NAMED], ids=["text", "tokens"])
@pytest.mark.parametrize("form", ALL, ids=lambda form: f"{form.name}-{form.begin}{form.call[0]}")
class TestEachFormat:
    """What every format promises, with triggers that are text and that are tokens."""

    def test_calls_are_allowed_and_read(self, form: CallFormat, vocabulary: _Bytes) -> None:
        calls = [ONE, TWO] if form.parallel else [TWO]
        text = _written(form, *calls)
        for choice in ("auto", "required"):
            assert _accepts(vocabulary, _grammar(form, vocabulary, choice), text), text
        before = "" if form.first else "I look it up.\n"
        assert _accepts(vocabulary, _grammar(form, vocabulary), before + text)
        read = parsed_calls(text, form, {"add", "shop.say-it"}, "key")
        assert [(call.name, json.loads(call.arguments)) for call in read] == [
            (name, json.loads(arguments)) for name, arguments in calls
        ]
        assert len({call.id for call in read}) == len(calls)
        assert all(len(call.id) == 9 and call.id.isalnum() for call in read)
        assert read == parsed_calls(text, form, {"add", "shop.say-it"}, "key")

    def test_text_is_free_unless_a_call_is_required(
        self, form: CallFormat, vocabulary: _Bytes
    ) -> None:
        for text in ("", "No call is needed.", "a\n{b}"):
            assert _accepts(vocabulary, _grammar(form, vocabulary), text)
            assert not _accepts(vocabulary, _grammar(form, vocabulary, "required"), text)
            assert parsed_calls(text, form, {"add"}, "") == []

    def test_wrong_calls_are_refused(self, form: CallFormat, vocabulary: _Bytes) -> None:
        wrong = [("add", '{"a": 1}'), ("add", '{"a": "1", "b": 2}'), ("other", "{}"),
                 ("add", '{"a": 1, "b": 2, "c": 3}'), ("add", '{"text": ""}')]  # fmt: skip
        for call in wrong:
            for choice in ("auto", "required"):
                text = _written(form, call)
                assert not _accepts(vocabulary, _grammar(form, vocabulary, choice), text), text

    def test_one_tool_can_be_demanded(self, form: CallFormat, vocabulary: _Bytes) -> None:
        grammar = _grammar(form, vocabulary, "=add")
        assert _accepts(vocabulary, grammar, _written(form, ONE))
        assert not _accepts(vocabulary, grammar, _written(form, TWO))

    def test_the_number_of_calls_has_a_limit(self, form: CallFormat, vocabulary: _Bytes) -> None:
        for many in (True, False):
            grammar = _grammar(form, vocabulary, "auto", many)
            most = MAX_CALLS if many and form.parallel else 1
            assert _accepts(vocabulary, grammar, _written(form, *[ONE] * most))
            assert not _accepts(vocabulary, grammar, _written(form, *[ONE] * (most + 1)))


@pytest.mark.parametrize("form", ALL, ids=lambda form: f"{form.name}-{form.begin}{form.call[0]}")
def test_a_call_that_was_cut_is_none(form: CallFormat) -> None:
    text = _written(form, ONE, TWO) if form.parallel else _written(form, ONE)
    for length in range(len(text)):
        read = parsed_calls(text[:length], form, {"add", "shop.say-it"}, "")
        assert [call.name for call in read] in ([], ["add"], ["add", "shop.say-it"])
        assert all(json.loads(call.arguments) for call in read)
    assert parsed_calls(_written(form, ("other", "{}")), form, {"add"}, "") == []


def test_loose_spellings_are_read() -> None:
    hermes = call_format('<tool_call> {"name": ..., "arguments": ...}')
    text = '<tool_call>{"arguments":{"a":1},\n"name":"add"}</tool_call>'
    assert [call.name for call in parsed_calls(text, hermes, {"add"}, "")] == ["add"]
    fenced = 'Sure:\n```json\n{"name": "add", "arguments": {}}\n```'
    assert [call.name for call in parsed_calls(fenced, GENERIC, {"add"}, "")] == ["add"]
    assert parsed_calls("{" * 100_000, GENERIC, {"add"}, "") == []


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('<tool_call>\\n{\\"name\\": NAME, \\"arguments\\": <args-json-object>}', "hermes"),
        ("[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}", "mistral"),
        ("[TOOL_CALLS][", "mistral"),
        ("{{'<｜tool▁calls▁begin｜>'}}", "deepseek"),
        ('{{ "ipython" }} {"name": "x", "parameters": {}}', "llama"),
        ("<|tool_call|>", "granite"),
        ("<tool_call><function={{ name }}>", "json"),
        ("{{ messages }}", "json"),
    ],
)  # fmt: skip
def test_the_template_tells_the_format(template: str, name: str) -> None:
    assert call_format(template).name == name


@pytest.mark.parametrize("vocabulary", [PLAIN, NAMED], ids=["text", "tokens"])
def test_calls_without_marks_are_held_too(vocabulary: _Bytes) -> None:
    hermes = call_format('<tool_call> "arguments": ')
    grammar = _grammar(hermes, vocabulary)
    assert _accepts(vocabulary, grammar, _written(GENERIC, ONE, TWO))
    assert not _accepts(vocabulary, grammar, _written(GENERIC, ("add", '{"a": ""}')))
    assert not _accepts(vocabulary, grammar, _written(GENERIC, ("other", "{}")))
    assert not _accepts(vocabulary, _grammar(hermes, vocabulary, many=False),
                        _written(GENERIC, ONE, TWO))  # fmt: skip
    assert not _accepts(vocabulary, _grammar(hermes, vocabulary, "required"),
                        _written(GENERIC, ONE))  # fmt: skip
