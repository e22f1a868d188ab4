"""The fake engine, for tests and simulation: the contract of engine.Engine without a model.

The vocabulary is the 256 bytes and a few control tokens. A seat holds its tokens and a running hash
of them. Logits are a function of the hash, so lost, mixed-up or wrongly restored KV changes the
output. The text looks like lower-case words.

``fake:step_ms=5,ctx=512,end=50,crash_after=100`` sets the duration of a decode call, the training
context, and one token in 50 to end the text; it dies in the 100th decode call. ``frozen=1`` is a
model whose state cannot be saved, ``shaped=1`` one whose KV depends on the length of rows, too.
``drafts=15`` allows drafts of 15 tokens. With ``words=3`` the logits follow from the last 3 tokens,
so the text repeats itself. ``tools=1`` has a chat template that knows tools.
The images of ``window=32`` hold only the last 32 tokens, as those of sliding windows do.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from .engine import (
    ChatSource,
    Constraint,
    EngineInfo,
    EngineSettings,
    Grammar,
    ImageRejected,
    ImageTooLarge,
    InvalidInput,
    LoadError,
    Logits,
    Row,
    Rung,
    Tokens,
)

VOCAB = 260
BEGIN, END, TURN_START, TURN_END = 256, 257, 258, 259
_CONTROL = {"<s>": BEGIN, "</s>": END, "<|im_start|>": TURN_START, "<|im_end|>": TURN_END}
_SPELLING = {token: text for text, token in _CONTROL.items()}
_PARTS = re.compile("(" + "|".join(map(re.escape, _CONTROL)) + ")")
_LETTERS = np.frombuffer(b"etaoinshrdlcumwfgypbvk ", np.uint8).astype(np.int64)
_TOKEN_BYTES = 64
_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}\n"
    'Write <tool_call> {"name": NAME, "arguments": {}} </tool_call>.<|im_end|>\n{% endif %}'
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
_OPTIONS = (
    "step_ms", "ctx", "end", "crash_after", "frozen", "shaped", "drafts", "words", "tools",
    "window",
)  # fmt: skip
_STATE = struct.Struct("<QQ")
_SEED = 0x243F6A8885A308D3
_MASK = (1 << 64) - 1


class FakeEngine:
    """See the module's text."""

    def __init__(self, settings: EngineSettings) -> None:
        options = _options(settings.path)
        train = options.get("ctx", 4096)
        if settings.context_tokens and settings.context_tokens > train:
            raise LoadError(f"--ctx {settings.context_tokens} exceeds the model's {train} tokens")
        self._step_s = options.get("step_ms", 0) / 1000
        self._end_odds = options.get("end", 200)
        self._crash_after = options.get("crash_after", 0)
        self._shaped = bool(options.get("shaped", 0))
        self._words = options.get("words", 0)
        self._has_template = bool(options.get("tools", 0))
        self._calls = 0
        self._tokens: list[list[int]] = [[] for _ in range(settings.seats)]
        self._shapes: list[list[int]] = [[] for _ in range(settings.seats)]
        self._window = options.get("window")
        self._oldest = [0] * settings.seats
        self._hash = [_SEED] * settings.seats
        self._info = EngineInfo(
            description="fake model", model_hash=settings.path, build="fake-1",
            context_tokens=settings.context_tokens or train, train_context_tokens=train,
            seats=settings.seats, batch_tokens=2048, vocab_size=VOCAB,
            threads=settings.threads or 1, device="none", rung=Rung("fake"), exact=True,
            image_fixed_bytes=_STATE.size, image_token_bytes=_TOKEN_BYTES,
            restorable=not options.get("frozen", 0), image_window=self._window,
            step_s=self._step_s or 1e-3, draft_tokens=options.get("drafts", 0),
            decode_token_s=1e-3 / settings.seats if options.get("drafts") else 1e-3,
        )  # fmt: skip

    @property
    def info(self) -> EngineInfo:
        return self._info

    def decode(self, rows: Sequence[Row]) -> dict[int, Logits]:
        self._calls += 1
        if self._calls == self._crash_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._step_s:
            time.sleep(self._step_s)
        seats = [row.seat for row in rows]
        assert seats == sorted(set(seats)), "rows come in ascending order of seat"
        out = {}
        for row in rows:
            assert row.position == len(self._tokens[row.seat]), "a row continues its seat"
            shape = len(row.tokens) if self._shaped else 0
            states = [self._push(row.seat, token, shape) for token in row.tokens.tolist()]
            if row.wants_logits:
                each = [self._logits(state) for state in states[-row.wants_logits :]]
                out[row.seat] = each[0] if len(each) == 1 else np.stack(each)
        return out

    def log_likelihoods(self, seat: int, tokens: Tokens) -> npt.NDArray[np.float64]:
        scored = []
        for at, following in enumerate(tokens[1:]):
            logits = self.decode([Row(seat, at, tokens[at : at + 1], True)])[seat]
            scored.append(logits[following] - np.log(np.exp(logits.astype(np.float64)).sum()))
        self.decode([Row(seat, len(tokens) - 1, tokens[-1:], False)])
        return np.array(scored)

    def set_threads(self, threads: int) -> None:
        self._info = msgspec.structs.replace(self._info, threads=threads)

    def declare(self, info: EngineInfo) -> None:
        self._info = info

    def length(self, seat: int) -> int:
        return len(self._tokens[seat])

    def trim(self, seat: int, length: int) -> int:
        if length < len(self._tokens[seat]):
            if self._oldest[seat] > max(0, length - (self._window or 0)):
                length = 0
            if not length:
                self._oldest[seat] = 0
            kept = list(zip(self._tokens[seat], self._shapes[seat], strict=True))[:length]
            self._tokens[seat], self._shapes[seat], self._hash[seat] = [], [], _SEED
            for token, shape in kept:
                self._push(seat, token, shape)
        return len(self._tokens[seat])

    def save(self, seat: int, into: memoryview) -> int:
        """Write hash, count, tokens and shapes, padded as if each token had real KV."""
        tokens = self._tokens[seat]
        size = _STATE.size + len(tokens) * _TOKEN_BYTES
        if size > len(into):
            raise ImageTooLarge(size)
        _STATE.pack_into(into, 0, self._hash[seat], len(tokens))
        body = np.frombuffer(into, np.int32, offset=_STATE.size, count=len(tokens) * 16)
        body[::16], body[1::16] = tokens, self._shapes[seat]
        return size

    def load(self, seat: int, image: memoryview, length: int) -> None:
        self._tokens[seat], self._shapes[seat], self._hash[seat] = [], [], _SEED
        state, count = _STATE.unpack_from(image)
        if count != length or len(image) < _STATE.size + count * _TOKEN_BYTES:
            raise ImageRejected(f"the image holds {count} tokens, not {length}")
        body = np.frombuffer(image, np.int32, offset=_STATE.size, count=count * 16)
        self._tokens[seat], self._shapes[seat] = body[::16].tolist(), body[1::16].tolist()
        self._hash[seat] = state
        self._oldest[seat] = max(0, length - self._window) if self._window else 0

    @property
    def chat_source(self) -> ChatSource:
        named = {"": _TEMPLATE} if self._has_template else {}
        return ChatSource(
            templates=named, begin="<s>", end="</s>", control=_CONTROL, native=not named
        )

    def tokenize(self, parts: Iterable[tuple[str, bool]]) -> Tokens:
        tokens: list[int] = []
        for text, trusted in parts:
            for piece in _PARTS.split(text) if trusted else [text]:
                tokens += [_CONTROL[piece]] if trusted and piece in _CONTROL else _plain(piece)
        return np.array(tokens, np.int32)

    def tokenize_text(self, text: str) -> Tokens:
        return np.array([BEGIN, *_plain(text)], np.int32)

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def spelling(self, token: int) -> str:
        return _SPELLING.get(token) or bytes([token]).decode("latin-1")

    def ends(self, token: int) -> bool:
        return token in (END, TURN_END)

    def grammar(self, constraint: Constraint) -> Grammar:
        from .fake_guide import FakeGuide  # not at the start: it takes longer than the engine

        return FakeGuide((END, TURN_END), constraint)

    def close(self) -> None:
        pass

    def _push(self, seat: int, token: int, shape: int) -> int:
        """Append a token; return the state that its logits follow from."""
        self._tokens[seat].append(token)
        self._shapes[seat].append(shape)
        self._hash[seat] = _mixed(self._hash[seat], token + 1000 * shape)
        if not self._words:
            return self._hash[seat]
        return functools.reduce(_mixed, self._tokens[seat][-self._words :], _SEED)

    def _logits(self, state: int) -> Logits:
        logits = np.full(VOCAB, -20.0, np.float32)
        random = np.random.Generator(np.random.PCG64(state))
        logits[_LETTERS] = random.standard_normal(len(_LETTERS), np.float32) * 2
        if self._has_template:
            logits[ord("{")] = logits[_LETTERS].max() + random.standard_normal() * 2  # a call
        if self._end_odds and random.integers(self._end_odds) == 0:
            logits[TURN_END] = 20.0
        return logits


def _mixed(state: int, token: int) -> int:
    mixed = (state ^ (token + 1)) * 0x9E3779B97F4A7C15 & _MASK
    return mixed ^ (mixed >> 29)


def _plain(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the text is not valid Unicode: {error.reason}") from None


def _options(path: str) -> dict[str, int]:
    options: dict[str, int] = {}
    for part in path.partition(":")[2].split(","):
        name, _, value = part.partition("=")
        if part and (name not in _OPTIONS or not value.isdecimal()):
            raise LoadError(f"fake model: unknown option {part!r}; see {Path(__file__).name}")
        if part:
            options[name] = int(value)
    return options
