"""llama.cpp's grammars, made from GBNF, with limits that protect the other requests of a core.

llama.cpp parses a grammar recursively and follows all readings of a text at once. So a deeply
nested grammar would end the process, and an ambiguous one would run almost forever. The former is
rejected when it is made, the latter when it exceeds its time.
"""

from __future__ import annotations

import ctypes
import re
import time
from typing import Any

import numpy as np

from .engine import InvalidInput, Logits
from .llama_lib import clear_errors, last_error, lib

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
MAX_NESTED_GROUPS = 5000
"""llama.cpp needs about 500 bytes of stack for each level."""
_MAX_BYTES = 1 << 22
_MAX_CPU_S = 1.0
"""Limit on CPU time for one question to the grammar; 10 ms are usual."""
_PART_TOKENS = 512
"""Tokens that are tested between two looks at the clock."""
_TEXTS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.DOTALL)
"""Literals, character classes and comments: parentheses in them do not group."""


class LlamaGrammar:
    """llama.cpp's grammar sampler; the contract is engine.Grammar."""

    def __init__(self, vocab: Any, vocab_size: int, gbnf: str) -> None:
        """Make it from GBNF. Raises InvalidInput."""
        try:
            rules = gbnf.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the grammar is not valid Unicode: {error.reason}") from None
        if len(rules) > _MAX_BYTES:
            raise InvalidInput(f"the grammar has {len(rules):,} bytes; the limit is {_MAX_BYTES:,}")
        _check_depth(gbnf)
        clear_errors()
        self._sampler = lib.llama_sampler_init_grammar(vocab, rules, b"root")
        if not self._sampler:
            raise InvalidInput(f"the grammar cannot be used: {last_error()}")
        self._all = np.zeros(vocab_size, _TOKEN_DATA)

    def allows(self, token: int) -> bool:
        one = np.array([(token, 1.0, 0.0)], _TOKEN_DATA)
        self._apply(one)
        return bool(np.isfinite(one["logit"][0]))

    def mask(self, logits: Logits) -> None:
        self._all["id"] = np.arange(len(logits))
        self._all["logit"] = logits
        self._apply(self._all)
        logits[:] = self._all["logit"]

    def _apply(self, candidates: np.ndarray) -> None:
        end_s = time.thread_time() + _MAX_CPU_S
        for at in range(0, len(candidates), _PART_TOKENS):
            part = candidates[at : at + _PART_TOKENS]
            data = ctypes.cast(part.ctypes.data, lib.llama_token_data_p)
            array = lib.llama_token_data_array(data, len(part), -1, False)
            lib.llama_sampler_apply(self._sampler, ctypes.byref(array))
            if time.thread_time() > end_s:
                raise InvalidInput(
                    "the grammar takes too long: the text so far can be read in too many ways; "
                    "write alternatives so that the next character selects one"
                )

    def accept(self, token: int) -> None:
        lib.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None


def _check_depth(gbnf: str) -> None:
    depth = 0
    for bracket in re.findall(r"[()]", _TEXTS.sub("", gbnf)):
        depth = max(0, depth + (1 if bracket == "(" else -1))
        if depth > MAX_NESTED_GROUPS:
            raise InvalidInput(f"the grammar nests more than {MAX_NESTED_GROUPS:,} groups")
