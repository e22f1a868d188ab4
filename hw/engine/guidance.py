"""Constrained text: llguidance follows a text and says which tokens may come next.

A ``Guide`` is one constrained text; the contract is engine.Grammar. Its state depends on the
accepted tokens alone. Control tokens, other than an end, are never allowed inside a text, unless a
Lark grammar names them. Sources come from outside: making a guide is bounded in size and time, and
so is each question to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from aios.hw.schema.document import UnsupportedSchema
from aios.hw.schema.guided import guided_schema

from .engine import Constraint, InvalidInput, Logits

MAX_SOURCE_BYTES = 1 << 20
"""Limit on the size of a schema, grammar, regular expression or list of choices."""
MAX_RULES = 1000
"""Limit on the rules of a grammar; llguidance follows them recursively."""
MAX_GBNF_CHARS = 1 << 17
"""Limit on the size of a GBNF grammar, whose conversion is slow."""
_LIMITS = LLParserLimits(
    max_lexer_states=50_000, max_grammar_size=200_000, step_lexer_fuel=100_000,
    verbose_errors=False,
)  # fmt: skip
"""llguidance counts its own steps: these are at most about 0.1 s for a token, and 100 MB."""
_RULE = re.compile(r"^[ \t]*[?!]?\w+[^\n:]*:", re.MULTILINE)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)


class Guide:
    """One constrained text; the contract is engine.Grammar."""

    def __init__(self, tokenizer: LLTokenizer, constraint: Constraint) -> None:
        """Make it from its source. Raises InvalidInput."""
        self._what = _SOURCES[constraint.kind][0]
        self._size = tokenizer.vocab_size
        self._mask: npt.NDArray[np.bool_] | None = None
        self._matcher = LLMatcher(tokenizer, source(constraint), log_level=0, limits=_LIMITS)
        self._check("cannot be used")
        if not any(self._matcher.compute_bitmask()) or self._matcher.is_error():
            raise InvalidInput(f"{self._what} allows no text")

    @property
    def complete(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allows(self, token: int) -> bool:
        if self._mask is not None or self.complete:
            return bool(self.allowed()[token])
        allowed = self._matcher.validate_tokens([token]) == 1
        self._check("cannot be followed further")
        return allowed

    def mask(self, logits: Logits) -> None:
        logits[: self._size][~self.allowed()] = -np.inf
        logits[self._size :] = -np.inf

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Return True for each token that may come next; shape (vocab_size,). Read-only."""
        if self._mask is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            self._check("cannot be followed further")
            self._mask = np.unpackbits(bits, count=self._size, bitorder="little").view(bool)
        return self._mask

    def accept(self, token: int) -> None:
        self._mask = None
        if not self._matcher.consume_token(token):
            self._check("cannot be followed further")

    def forced(self) -> list[int]:
        return self._matcher.compute_ff_tokens()

    def close(self) -> None:
        self._mask = None

    def _check(self, how: str) -> None:
        if self._matcher.is_error():
            raise InvalidInput(f"{self._what} {how}: {_reason(self._matcher.get_error())}")


def _reason(error: str) -> str:
    """Return what llguidance says of an error, without the grammar that it repeats."""
    return " ".join(error.partition("<non-verbose/>")[0].split())[:300]


# ------------------------------------------------------------------------------- sources


def source(constraint: Constraint) -> str:
    """Return llguidance's own form of a source. Raises InvalidInput."""
    name, convert = _SOURCES[constraint.kind]
    try:
        size = len(constraint.text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} is not valid Unicode: {error.reason}") from None
    if size > MAX_SOURCE_BYTES:
        raise InvalidInput(f"{name} has {size:,} bytes; the limit is {MAX_SOURCE_BYTES:,}")
    return convert(constraint.text)


def _from_schema(text: str) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(guided_schema(text))
    except UnsupportedSchema as error:
        raise InvalidInput(f"the JSON schema cannot be used: {error}") from None


def _from_gbnf(text: str) -> str:
    _check_rules("GBNF", text.count("::="))
    if len(text) > MAX_GBNF_CHARS:
        raise InvalidInput(f"the GBNF grammar is longer than {MAX_GBNF_CHARS:,} characters")
    try:
        lark = any_to_lark(_ESCAPE.sub(_plain_escape, text))
    except RecursionError:
        raise InvalidInput("the GBNF grammar nests its groups too deeply") from None
    except Exception as error:  # the converter raises errors of many kinds
        reason = _reason(str(error)) or type(error).__name__
        raise InvalidInput(f"the GBNF grammar cannot be converted: {reason}") from None
    return _from_lark(lark)


def _plain_escape(found: re.Match[str]) -> str:
    """Return the character of a \\u escape, which the converter misspells; other escapes stay."""
    code = found[1]
    if len(code) < 5 or int(code[1:], 16) > 0x10FFFF or 0xD800 <= int(code[1:], 16) < 0xE000:
        return found[0]
    char = chr(int(code[1:], 16))
    return char if char.isalnum() else f"\\x{ord(char):02x}" if ord(char) < 256 else char


def _from_lark(text: str) -> str:
    _check_rules("Lark", len(_RULE.findall(text)))
    return LLMatcher.grammar_from_lark(text)


def _check_rules(language: str, count: int) -> None:
    if count > MAX_RULES:
        raise InvalidInput(
            f"the {language} grammar has {count:,} rules; the limit is {MAX_RULES:,}"
        )


def _from_choice(text: str) -> str:
    literals = " | ".join(json.dumps(each, ensure_ascii=False) for each in json.loads(text))
    return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {literals}")


_SOURCES: dict[str, tuple[str, Callable[[str], str]]] = {
    "json_schema": ("the JSON schema", _from_schema),
    "grammar": ("the GBNF grammar", _from_gbnf),
    "regex": ("the regular expression", LLMatcher.grammar_from_regex),
    "lark": ("the Lark grammar", _from_lark),
    "choice": ("the list of choices", _from_choice),
}
"""Kind → its name in messages, and its conversion."""
