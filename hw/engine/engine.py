"""The contract of an engine, which computes logits from rows of tokens, seat by seat.

An engine owns a model and the KV cache of a fixed number of seats. It promises that a seat's
logits depend only on the tokens in that seat, that a saved state loaded into any seat continues
identically, and that a failed load leaves the seat empty. It never samples, never schedules and
knows no requests. llama.py and fake.py implement the contract; one test file runs against both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from aios.hw.models.aliases import Adapter

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]

GRID_TOKENS = 64
"""Prompts are cut at multiples of this if their chunks may not share a batch with decode rows."""


class Rung(msgspec.Struct, frozen=True):
    """One rung of the ladder of exactness: settings that trade speed for bit-exact batches."""

    name: str
    kv_type: str = "q8_0"
    mixed: bool = True
    """Prefill rows and decode rows may share a batch."""
    extra_buffers: bool = True
    """Weights may be repacked for the CPU's own kernels."""
    width: int | None = None
    """Limit on seats in one batch; None: all."""
    pairs: bool = False
    """A batch is computed in parts of two rows or more, with spare rows where there is only one."""
    replay: bool = False
    """What is computed again is computed as it was the first time: the prompt in chunks that end on
    the grid or with the prompt, apart from decode rows, then one generated token per step. Others
    take computed tokens only as whole chunks of prompts."""


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """The choice of ``aios model tune``: the file to load in the model's place, and settings."""

    path: str
    model_hash: str
    weights: str
    """``original``, or the format of the copy at ``path``."""
    rung: Rung
    """The rung to try first; the self-test decides if it is used."""
    ubatch_tokens: int
    threads: int


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to load a model. Lengths in tokens; ``None`` lets the engine choose.

    ``path``: a GGUF file, or ``fake``. ``context_tokens`` is the window of one seat.
    ``gpu_layers``: -1 puts every layer on the GPU if the build has one, 0 none.
    ``exact``: use the fastest rung that is known to be exact.
    """

    path: str
    lora: tuple[Adapter, ...] = ()
    """Adapters that are added to the model. They are part of its hash."""
    context_tokens: int | None = None
    seats: int = 8
    threads: int | None = None
    gpu_layers: int = -1
    exact: bool = True
    memory_bytes: int | None = None
    """Limit on weights, KV of all seats and buffers together."""
    cache_dir: str | None = None
    """Folder for outcomes of self-test and tuning; None: nothing is known, nothing is kept."""
    window_limit: int | None = None
    """Limit on the window if ``context_tokens`` is None."""
    ubatch_tokens: int = 512
    """Limit on tokens computed at a time; larger batches are computed in parts."""
    drafts: bool = True
    """Allow drafts, if the self-test has shown that they are exact."""
    look_up_tuned: bool = True
    """Look up the tuned choice in the cache."""
    predecessor: EngineInfo | None = None
    """The engine that this one replaces. It gets the same weights and rung, whatever has been found
    out since, so requests continue with the same tokens."""


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model. Lengths in tokens, sizes in bytes."""

    description: str
    model_hash: str
    build: str
    """llama.cpp's version; an image is only valid for the build that wrote it."""
    context_tokens: int
    train_context_tokens: int
    memory_bytes: int = 0
    """Weights, KV of all seats and buffers, by the file's header; 0 if not known."""
    seats: int
    batch_tokens: int
    """Limit on tokens in one decode call, all rows together."""
    vocab_size: int
    threads: int
    device: str
    rung: Rung
    exact: bool
    """The rung passed the self-test on this machine and model, or is exact by construction."""
    untested: int = 0
    """Number of faster rungs that the self-test has yet to try."""
    tuned: Tuned | None = None
    """The tuned choice in use; ``model_hash`` is then the hash of its file."""
    image_fixed_bytes: int
    image_token_bytes: int
    """An image of n tokens takes at most image_fixed_bytes + n * image_token_bytes."""
    image_window: int | None = None
    """Longer images, in tokens, lack the beginning of some layers and cannot be cut; None: all can
    be cut."""
    restorable: bool = True
    """False if the model's state cannot be saved; parked requests are then recomputed."""
    prefill_token_s: float = 0.001
    """Seconds for a prompt token in a chunk."""
    decode_token_s: float = 0.001
    """Seconds for a generated token if all seats generate."""
    step_s: float = 0.001
    """Seconds for a step with one row."""
    draft_tokens: int = 0
    """Limit on the tokens that follow the first in a decode row: rows up to this length give the
    same logits as their tokens one by one. 0: that was not shown."""
    estimated: bool = False
    """Thread count and times are estimates; they have yet to be measured on a quiet machine."""


class Row(NamedTuple):
    """Consecutive tokens for one seat, the first at ``position``; a seat has at most one row."""

    seat: int
    position: int
    tokens: Tokens
    wants_logits: int
    """The number of last tokens whose logits are needed."""


class ChatSource(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's file says about conversations.

    ``templates``: Jinja texts by name, the default's name is empty. ``begin`` and ``end``: the
    spelling of the tokens that begin and end a text. ``control``: all control tokens by their
    spelling; ``user_defined``: tokens that the tokenizer recognises in any text.
    ``native``: the model knows ChatML, though it has no template.
    """

    templates: dict[str, str] = {}
    begin: str = ""
    end: str = ""
    control: dict[str, int] = {}
    user_defined: dict[str, int] = {}
    native: bool = False


ConstraintKind = Literal["json_schema", "grammar", "regex", "lark", "choice"]


class Constraint(msgspec.Struct, frozen=True):
    """What a text is held to."""

    kind: ConstraintKind
    """A JSON schema as JSON; a grammar in GBNF; a regular expression that the whole text matches; a
    grammar in llguidance's Lark; or a JSON list of texts, of which the text is one."""
    text: str


class LoadError(Exception):
    """The model cannot be loaded; the text gives the reason and the cure."""


class InvalidInput(Exception):
    """A prompt, template, schema or grammar cannot be used; the text gives the reason."""


class ImageTooLarge(Exception):
    """The image needs ``needed_bytes``; the part already written is void."""

    def __init__(self, needed_bytes: int) -> None:
        super().__init__(f"image needs {needed_bytes} bytes")
        self.needed_bytes = needed_bytes


class ImageRejected(Exception):
    """The image does not fit this model or is damaged; the seat is now empty."""


class Grammar(Protocol):
    """The state of one constrained text; it depends on the accepted tokens alone.

    Each method raises InvalidInput if the grammar has become too complex to follow.
    """

    @property
    def complete(self) -> bool:
        """The text can only end here."""

    def allows(self, token: int) -> bool:
        """Return True if the text may continue with this token, or end by it."""

    def mask(self, logits: Logits) -> None:
        """Set the logits of all forbidden tokens to -inf, in place."""

    def accept(self, token: int) -> None:
        """Append a token to the text; it must be allowed and not end the text."""

    def forced(self) -> list[int]:
        """Return the tokens of the text that must come next, as the model's tokeniser splits it.

        Other tokens may spell the same text, so ``mask`` can allow more.
        """

    def close(self) -> None:
        """Free the grammar. Idempotent."""


class Engine(Protocol):
    """The contract; see the module's text. Not thread-safe. Positions start at 0 in each seat."""

    @property
    def info(self) -> EngineInfo:
        """The loaded model."""

    def decode(self, rows: Sequence[Row]) -> dict[int, Logits]:
        """Run the rows as one batch; return seat → logits, as rows want them.

        Their shape is (vocab_size,) for the last token, (n, vocab_size) for the last n > 1. Rows
        are sorted by seat and have at most ``batch_tokens`` tokens in all. A row's position must
        equal the seat's length. The arrays are valid until the next decode.
        """

    def log_likelihoods(self, seat: int, tokens: Tokens) -> npt.NDArray[np.float64]:
        """Return ln p of each token given its predecessors; shape (len(tokens) - 1,).

        The seat must be empty; afterwards it holds the tokens.
        """

    def set_threads(self, threads: int) -> None:
        """Set the thread count of later decodes; it does not change the logits."""

    def length(self, seat: int) -> int:
        """Return the number of tokens in the seat."""

    def trim(self, seat: int, length: int) -> int:
        """Keep at most the first ``length`` tokens; return how many are left (0: cleared)."""

    def save(self, seat: int, into: memoryview) -> int:
        """Write the seat's state; return its size in bytes. Raises ImageTooLarge, ImageRejected."""

    def load(self, seat: int, image: memoryview, length: int) -> None:
        """Replace the seat's state with a saved one of ``length`` tokens. Raises ImageRejected."""

    @property
    def chat_source(self) -> ChatSource:
        """What the model's file says about conversations."""

    def tokenize(self, parts: Iterable[tuple[str, bool]]) -> Tokens:
        """Tokenise text in parts; only in parts with True are control tokens recognised.

        Raises InvalidInput if the text is not valid Unicode.
        """

    def tokenize_text(self, text: str) -> Tokens:
        """Tokenise plain text, after a beginning-of-text token if the model uses one.

        Raises InvalidInput if the text is not valid Unicode.
        """

    def piece(self, token: int) -> bytes:
        """Return the token's bytes; empty for control tokens."""

    def spelling(self, token: int) -> str:
        """Return the text of a token, of a control token, too."""

    def ends(self, token: int) -> bool:
        """Return True if the token ends the generation."""

    def grammar(self, constraint: Constraint) -> Grammar:
        """Make the grammar of a text. Raises InvalidInput."""

    def declare(self, info: EngineInfo) -> None:
        """Replace ``info``, for outcomes of tests and measurements."""

    def close(self) -> None:
        """Free the model. Idempotent."""
