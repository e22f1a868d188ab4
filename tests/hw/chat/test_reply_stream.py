"""Replies: reasoning apart from text, however the tokens cut them."""

from __future__ import annotations

import itertools

import pytest

from aios.hw.chat.call_format import GENERIC, call_format
from aios.hw.chat.reply_format import ReplyFormat
from aios.hw.chat.reply_stream import ReplyStream

THINK = ReplyFormat(think_begin="<think>", think_end="</think>")
OPENED = ReplyFormat(think_begin="<think>", think_end="</think>", thinking=True)


def _read(form: ReplyFormat, said: str, size: int, stop: tuple[str, ...] = ()) -> tuple[str, str]:
    stream = ReplyStream(form, stop)
    data = said.encode()
    parts = [stream.push(data[at : at + size]) for at in range(0, len(data), size)]
    parts.append(stream.finish())
    text, reasoning = ("".join(each) for each in zip(*parts, strict=True))
    return text, reasoning


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("form", "said", "text", "reasoning"),
    [
        (ReplyFormat(), "<think>a</think>b", "<think>a</think>b", ""),
        (THINK, "\n<think>\nhé\n</think>\n\nyes", "yes", "hé\n"),
        (THINK, "plain", "plain", ""),
        (THINK, "  <thin", "  <thin", ""),
        (THINK, "<thing>", "<thing>", ""),
        (THINK, "a <think>b</think>", "a <think>b</think>", ""),
        (THINK, "<think>cut </thin", "", "cut </thin"),
        (THINK, "<think></think>x", "x", ""),
        (THINK, "<think>a</think> b</think>", "b</think>", "a"),
        (OPENED, "a b</think>  c  d", "c  d", "a b"),
        (OPENED, "", "", ""),
        (THINK, "", "", ""),
        (THINK, "   ", "   ", ""),
    ],
)
def test_reasoning_is_apart(
    form: ReplyFormat, said: str, text: str, reasoning: str, size: int
) -> None:
    assert _read(form, said, size) == (text, reasoning)


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_stop_strings_end_the_text_not_the_reasoning(size: int) -> None:
    assert _read(THINK, "<think>END</think>one END two", size, ("END",)) == ("one ", "END")
    plain = ReplyFormat(stop=("\nUser:",))
    assert _read(plain, "hello\nUser: hm", size) == ("hello", "")


def test_any_cut_gives_the_same() -> None:
    said = b"<think>x\xc3\xa9</think>\n\xf0\x9f\x98\x80 END"
    for cuts in itertools.combinations(range(1, len(said)), 2):
        stream = ReplyStream(THINK, ())
        bounds = [0, *cuts, len(said)]
        parts = [stream.push(said[a:b]) for a, b in itertools.pairwise(bounds)]
        parts.append(stream.finish())
        assert "".join(part.text for part in parts) == "\N{GRINNING FACE} END"
        assert "".join(part.reasoning for part in parts) == "xé"


HERMES = ReplyFormat(tools=("add",), calls=call_format('<tool_call> "arguments": '))
MISTRAL = ReplyFormat(tools=("add",), calls=call_format("[TOOL_CALLS]"),
                      think_begin="[THINK]", think_end="[/THINK]")  # fmt: skip
JSON = ReplyFormat(tools=("add",), calls=GENERIC)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("form", "said", "text", "calls"),
    [
        (HERMES, "Let me see.\n<tool_call>\n{}", "Let me see.\n", "<tool_call>\n{}"),
        (HERMES, "a <tool_ca", "a <tool_ca", ""),
        (HERMES, ' {"name": 1}', "", ' {"name": 1}'),
        (HERMES, 'see {"name": 1}', 'see {"name": 1}', ""),
        (HERMES, "  hi", "  hi", ""),
        (HERMES, "  ", "  ", ""),
        (HERMES, "", "", ""),
        (MISTRAL, "[THINK]a[/THINK]b[TOOL_CALLS][x", "b", "[TOOL_CALLS][x"),
        (MISTRAL, "{}", "{}", ""),
        (JSON, '{"a"', "", '{"a"'),
        (JSON, "x{", "x{", ""),
    ],
)
def test_calls_are_apart(form: ReplyFormat, said: str, text: str, calls: str, size: int) -> None:
    stream = ReplyStream(form, ())
    parts = [stream.push(said.encode()[at : at + size]) for at in range(0, len(said), size)]
    parts.append(stream.finish())
    assert ("".join(part.text for part in parts), stream.calls) == (text, calls)
