"""Keeping a caller's text apart from control tokens: what looks like one stays plain text.

Before a template sees a text, each control token's spelling in it is replaced by a mark; the
template may cut, join or quote the text. Afterwards each mark becomes the spelling again, in a part
of its own that is never read as a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"(?:{_OPEN}|\\\\ue000)(\\d+)(?:{_CLOSE}|\\\\ue001)")


class PlainText:
    """Knows the spellings of a model's control tokens."""

    def __init__(self, control: Iterable[str], structural: Iterable[str] = ()) -> None:
        """``structural``: tokens that the tokenizer recognises in any text; only a cut within their
        spelling keeps it text."""
        self._cut = frozenset(structural)
        self._spellings = [_OPEN, "", *sorted({*control, *self._cut} - {""})]
        self._numbers = {text: number for number, text in enumerate(self._spellings)}
        real = self._spellings[2:]
        self._lengths = sorted({len(text) for text in [_OPEN, *real]}, reverse=True)
        firsts = re.escape("".join({text[0] for text in [_OPEN, *real]}))
        self._first = re.compile(f"[{firsts}]")
        self._beginnings = {text[:n] for text in real for n in range(2, len(text))}

    def marked(self, value: Any) -> Any:
        """Return a JSON value whose texts have marks in place of spellings."""
        match value:
            case str():
                return self._text(value)
            case list():
                return [self.marked(each) for each in value]
            case dict():
                return {self._text(key): self.marked(each) for key, each in value.items()}
        return value

    def _text(self, text: str) -> str:
        parts, done, at = [], 0, 0
        while found := self._first.search(text, at):
            start = found.start()
            for length in self._lengths:
                number = self._numbers.get(text[start : start + length])
                if number is not None:
                    parts += [text[done:start], f"{_OPEN}{number}{_CLOSE}"]
                    done = at = start + length
                    break
            else:
                at = start + 1
        if not parts and not self._ends_open(text):
            return text
        return "".join([*parts, text[done:], f"{_OPEN}1{_CLOSE}" if self._ends_open(text) else ""])

    def _ends_open(self, text: str) -> bool:
        """Return True if what follows the text could complete a control token."""
        return any(text[-n:] in self._beginnings for n in range(2, self._lengths[0]))

    def parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield a template's text in parts; True marks parts whose control tokens are real."""
        for index, part in enumerate(_MARK.split(text)):
            if index % 2:
                number = int(part)
                spelling = self._spellings[number] if number < len(self._spellings) else ""
                for piece in (spelling[:1], spelling[1:]) if spelling in self._cut else (spelling,):
                    if piece:
                        yield piece, False
            elif part:
                yield part, True
