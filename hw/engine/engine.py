"""The contract of an engine: what turns rows of tokens into logits, seat by seat.

An engine owns a model and the KV cache of a fixed number of seats. It promises that a seat's
logits depend on the tokens in that seat alone, that a saved image loaded into any seat continues
as if nothing had happened, and that a failed load leaves the seat empty. It never samples, never
schedules and knows no requests. llama.py and fake.py keep this contract; one test file runs
against both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]

GRID_TOKENS = 64
"""Where chunks may not be mixed with generating rows, prompts are cut at multiples of this."""


class Rung(msgspec.Struct, frozen=True):
    """One rung of the ladder of exactness: settings that trade speed for bit-exact batching."""

    name: str
    kv_type: str = "q8_0"
    mixed: bool = True
    """Prefill and decode rows may share a batch."""
    extra_buffers: bool = True
    """Weights may be repacked for the CPU's own kernels."""
    width: int | None = None
    """Most seats in one batch; None: all."""


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What ``aios model tune`` chose for a model: the file to load in its place, and how."""

    path: str
    model_hash: str
    weights: str
    """``original``, or the format of the copy at ``path``."""
    rung: Rung
    """Tried first; the self-test decides whether it is kept."""
    ubatch_tokens: int
    threads: int


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to load a model. Lengths in tokens; ``None`` lets the engine choose.

    ``path``: a GGUF file, or ``fake``. ``context_tokens`` is the window of one seat.
    ``gpu_layers``: -1 puts every layer on the GPU if the build has one, 0 none.
    ``exact``: climb the ladder of exactness and keep the fastest rung that passes.
    """

    path: str
    context_tokens: int | None = None
    seats: int = 8
    threads: int | None = None
    gpu_layers: int = -1
    exact: bool = True
    kv_budget_bytes: int | None = None
    """Bound on the KV cache of all seats together when ``context_tokens`` is None."""
    cache_dir: str | None = None
    """Where outcomes of self-test and tuning are kept; None tests every time and never tunes."""
    window_limit: int | None = None
    """With ``context_tokens`` None: no larger window than this."""
    ubatch_tokens: int = 512
    """Most tokens that are computed at a time; a larger batch is done in parts."""
    tuned: Tuned | None = None
    look_up_tuned: bool = True
    """Look in the cache for what tuning chose. A core that replaces another is told instead, in
    ``tuned``, so that requests go on with the same weights."""


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded. Lengths in tokens, sizes in bytes."""

    description: str
    model_hash: str
    build: str
    """llama.cpp's version and commit: an image is only valid for the build that wrote it."""
    context_tokens: int
    train_context_tokens: int
    seats: int
    batch_tokens: int
    """Most tokens in one decode call, all rows together."""
    vocab_size: int
    threads: int
    device: str
    rung: Rung
    exact: bool
    """The rung passed the self-test on this machine and model."""
    tuned: Tuned | None = None
    """In force; ``model_hash`` is that of its file."""
    image_fixed_bytes: int
    image_token_bytes: int
    """An image of n tokens takes at most image_fixed_bytes + n * image_token_bytes."""
    restorable: bool = True
    """False: this model's state cannot be saved; parked requests are recomputed."""
    prefill_token_s: float = 0.001
    """Calibrated at load: seconds for a prompt token, in chunks."""
    decode_token_s: float = 0.001
    """Calibrated at load: seconds for a generated token when all seats generate."""
    step_s: float = 0.001
    """Calibrated at load: seconds of a step with one row."""


class Row(NamedTuple):
    """Consecutive tokens for one seat, the first at ``position``; a seat has at most one row."""

    seat: int
    position: int
    tokens: Tokens
    wants_logits: bool
    """Logits of the last token are needed."""


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: str
    content: str


class LoadError(Exception):
    """The model cannot be loaded; the text says why and what to do."""


class InvalidInput(Exception):
    """A prompt, template, schema or grammar that cannot be used; the text says why."""


class ImageTooLarge(Exception):
    """The image needs ``needed_bytes``; nothing was written that may be used."""

    def __init__(self, needed_bytes: int) -> None:
        super().__init__(f"image needs {needed_bytes} bytes")
        self.needed_bytes = needed_bytes


class ImageRejected(Exception):
    """The image does not fit this model or is damaged; the seat is empty now."""


class Grammar(Protocol):
    """The state of one constrained output."""

    def allows(self, token: int) -> bool:
        """Whether the output may go on with this token. Raises InvalidInput, as ``mask`` does,
        when it takes too long to find out."""

    def mask(self, logits: Logits) -> None:
        """Set the logits of all tokens that are not allowed to -inf, in place."""

    def accept(self, token: int) -> None:
        """Advance; the token must be allowed."""

    def close(self) -> None:
        """Free what it holds. Idempotent."""


class Engine(Protocol):
    """See the module's text. Not thread-safe; positions count from 0 in each seat."""

    @property
    def info(self) -> EngineInfo:
        """What was loaded."""

    def decode(self, rows: Sequence[Row]) -> dict[int, Logits]:
        """Run the rows as one batch; seat → logits, shape (vocab_size,), for rows that want them.

        Rows come in ascending order of seat, at most ``batch_tokens`` tokens in all. The arrays
        are valid until the next decode. A row's position must equal the seat's length.
        """

    def log_likelihoods(self, seat: int, tokens: Tokens) -> npt.NDArray[np.float64]:
        """ln p of each token but the first, given those before it; shape (len(tokens) - 1,).

        The seat must be empty, and holds the tokens afterwards.
        """

    def set_threads(self, threads: int) -> None:
        """Decode with so many threads from now on. Does not change the logits."""

    def length(self, seat: int) -> int:
        """Tokens in the seat."""

    def trim(self, seat: int, length: int) -> int:
        """Keep at most the first ``length`` tokens; returns how many are left (0: cleared)."""

    def save(self, seat: int, into: memoryview) -> int:
        """Write the seat's state; returns its bytes. Raises ImageTooLarge."""

    def load(self, seat: int, image: memoryview, length: int) -> None:
        """Replace the seat's state by a saved one of ``length`` tokens. Raises ImageRejected."""

    def tokenize_chat(self, messages: Sequence[Message]) -> Tokens:
        """The conversation in the model's own chat template, ready for the assistant's turn.

        What looks like a control token inside a message is plain text. Raises InvalidInput when
        the template or the text cannot be used.
        """

    def tokenize_text(self, text: str) -> Tokens:
        """Plain text, after a beginning-of-text token where the model wants one.

        Raises InvalidInput when the text is no valid Unicode.
        """

    def piece(self, token: int) -> bytes:
        """The token's bytes; empty for control tokens."""

    def ends(self, token: int) -> bool:
        """Whether the token ends the generation."""

    def grammar(self, *, gbnf: str | None, json_schema: str | None) -> Grammar:
        """A fresh grammar from exactly one source. Raises InvalidInput."""

    def declare(self, info: EngineInfo) -> None:
        """Replace ``info``: what tests and measurements found out."""

    def close(self) -> None:
        """Free the model. Idempotent."""
