"""Constrained texts of the fake engine: llguidance over its bytes, and an end before long.

The fake model has no sense of when a text should end. So a ``FakeGuide`` forbids more than the
grammar does, as a function of the text: strings, numbers and lists end after a few bytes, more or
less, wherever the grammar allows it.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
import numpy.typing as npt

from aios.hw.schema.vocabulary import byte_tokenizer

from .engine import Constraint, Logits
from .guidance import Guide

_LONG, _LONG_STRING, _LONG_NUMBER = 400, 24, 3
_QUOTE = ord('"')
_BRACKETS, _AFTER_NUMBER = list(b"]}"), list(b",]}")
_DIGITS = b"0123456789.eE+-"
_QUOTES = re.compile(rb'(?<!\\)"')


class FakeGuide:
    """The contract is engine.Grammar."""

    def __init__(self, ends: tuple[int, ...], constraint: Constraint) -> None:
        self._guide = Guide(byte_tokenizer(ends), constraint)
        self._ends, self._text = list(ends), b""

    @property
    def complete(self) -> bool:
        return self._guide.complete

    def allows(self, token: int) -> bool:
        return bool(self.allowed()[token])

    def mask(self, logits: Logits) -> None:
        logits[~self.allowed()] = -np.inf

    def accept(self, token: int) -> None:
        self._guide.accept(token)
        self._text += bytes([token])

    def forced(self) -> list[int]:
        return self._guide.forced()

    def close(self) -> None:
        self._guide.close()

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Return what the grammar allows; where it allows an end, often only that."""
        allowed = self._guide.allowed()
        for ends, chance in ((self._ends, 4), ([_QUOTE], self._in_string()), (_BRACKETS, 2),
                             (_AFTER_NUMBER, self._in_number())):  # fmt: skip
            if chance and allowed[ends].any() and self._dice(chance):
                kept = np.zeros_like(allowed)
                kept[ends] = allowed[ends]
                return kept
        return allowed

    def _dice(self, sides: int) -> bool:
        return len(self._text) > _LONG or (
            self._text != b"" and zlib.crc32(self._text) % sides == 0
        )

    def _in_string(self) -> int:
        """Return the odds that a string ends here; 0 outside and at its start."""
        *before, run = _QUOTES.split(self._text)
        return 0 if not run or len(before) % 2 == 0 else 1 if len(run) > _LONG_STRING else 8

    def _in_number(self) -> int:
        """Return the odds that a number ends here."""
        digits = len(self._text) - len(self._text.rstrip(_DIGITS))
        return 0 if not digits else 1 if digits >= _LONG_NUMBER else 3
