"""llguidance's tokenizers: the bytes of a model's tokens, or a vocabulary of plain bytes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

from llguidance import LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

SPECIAL = b"\xff"
"""What the bytes of a control token begin with."""


def model_tokenizer(
    pieces: Sequence[bytes], ends: Sequence[int], vocab: Any, tokenize: Any
) -> LLTokenizer:
    """Make the tokenizer of a model: the bytes of each token (those of control tokens begin with
    ``SPECIAL``), the tokens that end a text, and llama.cpp's vocabulary and its function that
    splits a text."""
    pointer = ctypes.cast(tokenize, ctypes.c_void_p).value
    made: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
        tokens=list(pieces), vocab_ptr=vocab, tokenize_fptr=pointer, eos_token=list(ends),
        slices=None,
    )  # fmt: skip
    return made


@functools.cache
def byte_tokenizer(ends: tuple[int, ...] = (256,)) -> LLTokenizer:
    """Return the tokenizer of a vocabulary of the 256 bytes and of control tokens, the last of
    which is the last end."""
    wrapped = _Bytes(max(ends) + 1, ends)
    return LLTokenizer(TokenizerWrapper(wrapped), len(wrapped.tokens), list(ends))


class _Bytes:
    """The vocabulary as TokenizerWrapper expects it."""

    bos_token_id = None

    def __init__(self, size: int, ends: Sequence[int]) -> None:
        self.special_token_ids = list(range(256, size))
        self.tokens = [bytes([byte]) for byte in range(256)]
        self.tokens += [SPECIAL + b"<%d>" % token for token in self.special_token_ids]
        self.eos_token_id = ends[0]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)
