"""llama.cpp's grammars: made from GBNF, asked what they allow, and kept from harming others.

llama.cpp takes a grammar in by recursion, and follows all ways in which a text could be read at
once. So one that is nested too deeply ends the process, and one that can be read in many ways takes
for ever; a core serves others, too. Such grammars are refused, the latter when it shows.
"""

from __future__ import annotations

import ctypes
import re
import time
from typing import Any

import numpy as np

from .engine import InvalidInput, Logits
from .llama_lib import forget_errors, last_error, lib

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
MOST_NESTED = 5000
"""Groups in each other. llama.cpp needs some 500 bytes of stack for each."""
_MOST_BYTES = 1 << 22
_MOST_S = 1.0
"""Of computing, to find out once what is allowed; some 10 ms are usual."""
_PART = 512
"""Tokens that are looked at before the time is."""
_TEXTS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.DOTALL)
"""What in GBNF groups nothing."""


class LlamaGrammar:
    """llama.cpp's grammar sampler. It throws on a token that is not allowed, so callers ask."""

    def __init__(self, vocab: Any, vocab_size: int, gbnf: str) -> None:
        """Raises InvalidInput."""
        try:
            rules = gbnf.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the grammar is no valid Unicode: {error.reason}") from None
        if len(rules) > _MOST_BYTES:
            raise InvalidInput(
                f"the grammar has {len(rules):,} bytes; the limit is {_MOST_BYTES:,}"
            )
        _check_depth(gbnf)
        forget_errors()
        self._sampler = lib.llama_sampler_init_grammar(vocab, rules, b"root")
        if not self._sampler:
            raise InvalidInput(f"the grammar cannot be used: {last_error()}")
        self._all = np.zeros(vocab_size, _TOKEN_DATA)

    def allows(self, token: int) -> bool:
        """Apply it to this one candidate. Raises InvalidInput when that takes too long."""
        one = np.array([(token, 1.0, 0.0)], _TOKEN_DATA)
        self._apply(one)
        return bool(np.isfinite(one["logit"][0]))

    def mask(self, logits: Logits) -> None:
        """Apply it to all. Raises InvalidInput when that takes too long."""
        self._all["id"] = np.arange(len(logits))
        self._all["logit"] = logits
        self._apply(self._all)
        logits[:] = self._all["logit"]

    def _apply(self, candidates: np.ndarray) -> None:
        most_s = time.thread_time() + _MOST_S
        for at in range(0, len(candidates), _PART):
            part = candidates[at : at + _PART]
            data = ctypes.cast(part.ctypes.data, lib.llama_token_data_p)
            array = lib.llama_token_data_array(data, len(part), -1, False)
            lib.llama_sampler_apply(self._sampler, ctypes.byref(array))
            if time.thread_time() > most_s:
                raise InvalidInput(
                    "the grammar takes too long: its beginning can be read in too many ways; "
                    "write optional parts so that the next character tells which one it is"
                )

    def accept(self, token: int) -> None:
        """Advance."""
        lib.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """Free it."""
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None


def _check_depth(gbnf: str) -> None:
    depth = 0
    for bracket in re.findall(r"[()]", _TEXTS.sub("", gbnf)):
        depth = max(0, depth + (1 if bracket == "(" else -1))
        if depth > MOST_NESTED:
            raise InvalidInput(f"the grammar nests more than {MOST_NESTED:,} groups")
