"""The llama.cpp engine; the contract is engine.Engine. Only a core process loads it.

Seats are sequences of one llama.cpp context with split KV. Batches are filled through numpy views;
states are read from and written to the caller's memory directly.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from aios.hw.machine.threads import default_threads
from aios.hw.models import model_files
from aios.hw.models.adapter_files import identity

from . import lora
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
from .llama_lib import LlamaBatch, build, bytes_at, clear_errors, device, last_error, lib, logits_at
from .pairs import Call, in_pairs
from .window import KV_TYPES, choose_window

if TYPE_CHECKING:
    from llguidance import LLTokenizer

BATCH_TOKENS = 2048
_SCORED_TOKENS = 256
"""Tokens whose logits are in memory at the same time if all are needed."""
_UNKNOWN, _CONTROL, _USER_DEFINED = 1 << 0, 1 << 3, 1 << 4
_MAX_PIECE_BYTES = 256
_PROBE_TOKENS = 9
"""Length of the image that is measured when a model is loaded."""
_TEMPLATE, _TEMPLATES = "tokenizer.chat_template", ("", "default", "tool_use")
"""The key of templates in the file, and the names that may follow it."""


class LlamaEngine:
    """A loaded model and its context."""

    def __init__(self, settings: EngineSettings, rung: Rung) -> None:
        path = Path(settings.path)
        problem = model_files.chat_problem(path)
        if problem:
            raise LoadError(problem)
        lora.check(settings.path, settings.lora)
        window = choose_window(model_files.check(path), settings, rung.kv_type)
        self._model: Any = None
        self._context: Any = None
        self._tokenizer: LLTokenizer | None = None
        clear_errors()
        lib.llama_backend_init()
        self._model = self._load_model(path, settings, rung)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._vocab_size = int(lib.llama_vocab_n_tokens(self._vocab))
        threads = settings.threads or default_threads()
        self._context = self._open_context(settings, rung, window.tokens, threads)
        lora.attach(self._model, self._context, settings.lora)
        self._memory = lib.llama_get_memory(self._context)
        self._lengths = [0] * settings.seats
        self._pairs, self._ubatch_tokens = rung.pairs, settings.ubatch_tokens
        self._batch = LlamaBatch(BATCH_TOKENS)
        self._pieces: dict[int, bytes] = {}
        fixed, per_token, restorable = self._measure_images()
        self._info = EngineInfo(
            description=self._description(), model_hash=identity(path, settings.lora),
            build=build(),
            context_tokens=window.tokens, train_context_tokens=window.trained,
            memory_bytes=window.memory_bytes,
            seats=settings.seats, batch_tokens=BATCH_TOKENS, vocab_size=self._vocab_size,
            threads=threads, device=device(settings.gpu_layers), rung=rung, exact=False,
            image_fixed_bytes=fixed, image_token_bytes=per_token, restorable=restorable,
            image_window=self._image_window,
        )  # fmt: skip

    def _load_model(self, path: Path, settings: EngineSettings, rung: Rung) -> Any:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = settings.gpu_layers
        params.use_extra_bufts = rung.extra_buffers
        clear_errors()
        model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise LoadError(
                f"llama.cpp cannot load {path}: {last_error()}; if the file is truncated or "
                "damaged, download it again"
            )
        if lib.llama_vocab_type(lib.llama_model_get_vocab(model)) == 0:
            lib.llama_model_free(model)
            raise LoadError(f"{path} has no vocabulary, so it cannot generate text")
        if lib.llama_model_has_encoder(model):
            lib.llama_model_free(model)
            raise LoadError(f"{path} is an encoder model; AIOS serves decoder-only models")
        whole = lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model)
        self._image_window = 0 if whole else int(lib.llama_model_n_swa(model)) or None
        return model

    def _open_context(self, settings: EngineSettings, rung: Rung, window: int, threads: int) -> Any:
        params = lib.llama_context_default_params()
        params.n_ctx = (window + rung.pairs) * settings.seats
        params.n_batch, params.n_ubatch = BATCH_TOKENS, settings.ubatch_tokens
        params.n_seq_max = settings.seats
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        (params.type_k, _), (params.type_v, _) = KV_TYPES[rung.kv_type]
        params.kv_unified = False
        params.no_perf = True
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise LoadError(
                f"llama.cpp cannot open a context of {settings.seats} seats x {window} tokens: "
                f"{last_error()}; use smaller --ctx or --seats"
            )
        return context

    def _measure_images(self) -> tuple[int, int, bool]:
        """Measure an image: fixed bytes, bytes per token, and if one can be loaded again.

        Uses one thread: while a model is loaded the machine is busy, and threads that wait for each
        other would take longer.
        """
        threads = int(lib.llama_n_threads(self._context))
        lib.llama_set_n_threads(self._context, 1, 1)
        sizes = []
        for count in (1, _PROBE_TOKENS):
            self.decode([Row(0, self._lengths[0], self._filler(count - self._lengths[0]), False)])
            sizes.append(int(lib.llama_state_seq_get_size(self._context, 0)))
        lib.llama_set_n_threads(self._context, threads, threads)
        per_token = -(-(sizes[1] - sizes[0]) // (_PROBE_TOKENS - 1))
        fixed = max(0, sizes[0] - per_token) + 1024
        image = bytearray(sizes[1])
        try:
            self.load(0, memoryview(image)[: self.save(0, memoryview(image))], _PROBE_TOKENS)
            restorable = self._lengths[0] == _PROBE_TOKENS
        except (ImageRejected, ImageTooLarge):
            restorable = False
        self.trim(0, 0)
        return fixed, per_token, restorable

    def _filler(self, count: int) -> Tokens:
        return np.arange(count, dtype=np.int32) % 64 + min(64, self._vocab_size // 2)

    def _description(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self._model, buffer, 256)
        name = self._meta("general.name")
        text = buffer.value.decode("utf-8", "replace")
        return f"{name}, {text}" if name else text

    def _meta(self, key: str) -> str:
        size = 4096
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if length < size:
                return buffer.value.decode("utf-8", "replace") if length > 0 else ""
            size = length + 1

    @property
    def info(self) -> EngineInfo:
        return self._info

    def decode(self, rows: Sequence[Row]) -> dict[int, Logits]:
        """Run llama_decode. Raises RuntimeError if it fails, which ends the core."""
        if self._pairs:
            calls = in_pairs(rows, self._ubatch_tokens)
            return {seat: logits for call in calls for seat, logits in self._pair(call).items()}
        wanted = self._batch.fill(rows)
        self._run(rows)
        return {seat: self._logits(first, count) for seat, first, count in wanted}

    def _pair(self, call: Call) -> dict[int, Logits]:
        """Run one llama_decode of pairs, remove the spare tokens, and copy the logits."""
        wanted = self._batch.fill(call.rows)
        if wanted:
            self._batch.want_last(call.rows, 2)
        self._run(call.rows)
        for seat in call.spare:
            self.trim(seat, self._lengths[seat] - 1)
        return {
            seat: self._logits(first - (seat in call.spare), count).copy()
            for seat, first, count in wanted
        }

    def _run(self, rows: Sequence[Row]) -> None:
        code = lib.llama_decode(self._context, self._batch.struct)
        if code != 0:
            raise RuntimeError(f"llama_decode failed with {code}: {last_error()}")
        for row in rows:
            self._lengths[row.seat] += len(row.tokens)

    def _logits(self, first: int, count: int) -> Logits:
        """Return the logits of consecutive tokens; llama.cpp keeps them in the batch's order."""
        pointer = lib.llama_get_logits_ith(self._context, first)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        logits = logits_at(address or 0, count * self._vocab_size)
        return logits if count == 1 else logits.reshape(count, self._vocab_size)

    def log_likelihoods(self, seat: int, tokens: Tokens) -> npt.NDArray[np.float64]:
        """Prefill in parts and keep the logits of every position of a part."""
        scored: list[npt.NDArray[np.float64]] = []
        for at in range(0, len(tokens), _SCORED_TOKENS):
            part, following = tokens[at : at + _SCORED_TOKENS], tokens[at + 1 :][:_SCORED_TOKENS]
            self._batch.fill([Row(seat, at, part, True)])
            self._batch.want_all(len(part))
            self._run([Row(seat, at, part, True)])
            pointer = ctypes.cast(lib.llama_get_logits(self._context), ctypes.c_void_p)
            flat = logits_at(pointer.value or 0, len(part) * self._vocab_size)
            logits = flat.reshape(len(part), self._vocab_size)[: len(following)]
            most = logits.max(axis=1, keepdims=True)
            total = np.log(np.exp(logits - most).sum(axis=1, dtype=np.float64)) + most[:, 0]
            scored.append(logits[np.arange(len(following)), following] - total)
        return np.concatenate(scored)

    def length(self, seat: int) -> int:
        return self._lengths[seat]

    def trim(self, seat: int, length: int) -> int:
        """Trim the seat; recurrent and sliding-window models may have to drop all tokens."""
        if length < self._lengths[seat]:
            if not length or not self._cut(seat, length):
                lib.llama_memory_seq_rm(self._memory, seat, -1, -1)
                length = 0
            self._lengths[seat] = length
        return self._lengths[seat]

    def _cut(self, seat: int, length: int) -> bool:
        """Remove all tokens from ``length`` on; return False if the next one could not be computed.

        It needs those that its layers look back to: of a sliding window, that many; of a recurrent
        model, the state after the token before it.
        """
        if not lib.llama_memory_seq_rm(self._memory, seat, length, -1):
            return False
        oldest = int(lib.llama_memory_seq_pos_min(self._memory, seat))
        return 0 <= oldest <= max(0, length - max(1, self._image_window or 1))

    def save(self, seat: int, into: memoryview) -> int:
        size = lib.llama_state_seq_get_data(self._context, bytes_at(into), len(into), seat)
        if not size:
            needed = int(lib.llama_state_seq_get_size(self._context, seat))
            if needed > len(into):
                raise ImageTooLarge(needed)
            raise ImageRejected("llama.cpp cannot save this model's state")
        return int(size)

    def load(self, seat: int, image: memoryview, length: int) -> None:
        self._lengths[seat] = 1  # so that trim clears the seat in any case
        self.trim(seat, 0)
        if not lib.llama_state_seq_set_data(self._context, bytes_at(image), len(image), seat):
            lib.llama_memory_seq_rm(self._memory, seat, -1, -1)
            raise ImageRejected(f"llama.cpp rejects the state: {last_error()}")
        self._lengths[seat] = length
        if lib.llama_memory_seq_pos_max(self._memory, seat) != length - 1:
            self.trim(seat, 0)
            raise ImageRejected(f"the state does not end after {length} tokens")

    @functools.cached_property
    def chat_source(self) -> ChatSource:
        """Read the templates and the whole vocabulary; takes a while."""
        named = {name: self._meta(".".join(filter(None, (_TEMPLATE, name)))) for name in _TEMPLATES}
        return ChatSource(
            templates={name: text for name, text in named.items() if text},
            begin=self.spelling(lib.llama_vocab_bos(self._vocab)),
            end=self.spelling(lib.llama_vocab_eos(self._vocab)),
            control=self._spellings(_CONTROL), user_defined=self._spellings(_USER_DEFINED),
        )  # fmt: skip

    def tokenize(self, parts: Iterable[tuple[str, bool]]) -> Tokens:
        tokens: list[int] = []
        for text, trusted in parts:
            tokens += self._tokens(text, add_special=False, parse_special=trusted)
        return np.array(tokens, np.int32)

    def tokenize_text(self, text: str) -> Tokens:
        return np.array(self._tokens(text, add_special=True, parse_special=False), np.int32)

    def _tokens(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the text is not valid Unicode: {error.reason}") from None
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        count = lib.llama_tokenize(
            self._vocab, data, len(data), buffer, room, add_special, parse_special
        )
        if count < 0:
            raise InvalidInput(f"the text cannot be tokenised ({-count} tokens)")
        return buffer[:count]

    def piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token, special=False)
        return piece

    def _piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(_MAX_PIECE_BYTES)
        size = lib.llama_token_to_piece(self._vocab, token, buffer, _MAX_PIECE_BYTES, 0, special)
        return buffer.raw[: max(0, size)]

    def spelling(self, token: int) -> str:
        return self._piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _spellings(self, attribute: int) -> dict[str, int]:
        get = lib.llama_vocab_get_attr
        tokens = [t for t in range(self._vocab_size) if get(self._vocab, t) & attribute]
        return {text: token for token in tokens if (text := self.spelling(token))}

    def ends(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def grammar(self, constraint: Constraint) -> Grammar:
        from .guidance import Guide  # not at the start: it takes 0.3 s, and few cores need it

        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        return Guide(self._tokenizer, constraint)

    def _make_tokenizer(self) -> LLTokenizer:
        """Make llguidance's tokenizer; a token's text there is its ``piece``."""
        from aios.hw.schema.vocabulary import SPECIAL, model_tokenizer

        pieces, ends = [], []
        for token in range(self._vocab_size):
            attributes = lib.llama_vocab_get_attr(self._vocab, token)
            piece = self._piece(token, special=True)
            named = attributes & _USER_DEFINED and piece[:1] == b"<" and piece[-1:] == b">"
            control = attributes & (_UNKNOWN | _CONTROL) or named
            pieces.append(SPECIAL + piece if control else piece)
            if lib.llama_vocab_is_eog(self._vocab, token):
                ends.append(token)
        return model_tokenizer(pieces, ends, self._vocab, lib.llama_tokenize)

    def declare(self, info: EngineInfo) -> None:
        self._info = info

    def set_threads(self, threads: int) -> None:
        lib.llama_set_n_threads(self._context, threads, threads)
        self._info = msgspec.structs.replace(self._info, threads=threads)

    def close(self) -> None:
        if self._context:
            lib.llama_free(self._context)
        if self._model:
            lib.llama_model_free(self._model)
        self._context = self._model = None
