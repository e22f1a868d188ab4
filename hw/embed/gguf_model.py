"""An embedding model in a GGUF file, run by llama.cpp: BERT and its kin, and decoders that pool.

One text at a time. A text is read up to the model's window, or MAX_TOKENS, whichever is less.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aios.hw.engine.engine import LoadError, Row
from aios.hw.engine.llama_lib import LlamaBatch, clear_errors, last_error, lib, logits_at
from aios.hw.models import model_files
from aios.hw.models.gguf_header import ModelFileError

from .messages import TextKind

MAX_TOKENS = 2048
_UNSPECIFIED, _NONE, _MEAN = -1, 0, 1
"""llama.cpp's ways to pool."""


class GgufModel:
    """See the module's text. Raises LoadError."""

    max_chars = 1 << 20

    def __init__(self, path: str) -> None:
        try:
            header = model_files.check(Path(path))
        except ModelFileError as error:
            raise LoadError(str(error)) from None
        if model_files.kind(header) != "embedding":
            raise LoadError(f"{path} is no embedding model")
        clear_errors()
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = -1
        self._model: Any = lib.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise LoadError(f"llama.cpp cannot load {path}: {last_error()}")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._window = min(MAX_TOKENS, int(lib.llama_model_n_ctx_train(self._model)))
        self._context = self._open(_UNSPECIFIED)
        if lib.llama_pooling_type(self._context) == _NONE:
            lib.llama_free(self._context)
            self._context = self._open(_MEAN)
        self._batch = LlamaBatch(self._window)
        self.dimensions = int(lib.llama_model_n_embd(self._model))

    def _open(self, pooling: int) -> Any:
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self._window
        params.n_seq_max = 1
        params.embeddings, params.pooling_type = True, pooling
        params.no_perf = True
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise LoadError(f"llama.cpp cannot open a context of the model: {last_error()}")
        return context

    def embed(self, texts: Sequence[str], kind: TextKind) -> npt.NDArray[np.float32]:
        """Return one row for each text. ``kind`` does not matter: what such a model wants before a
        text is the caller's to write."""
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for index, text in enumerate(texts):
            tokens = self._tokens(text)
            if len(tokens) > self._window:
                tokens = [*tokens[: self._window - 1], tokens[-1]]  # the last one may end the text
            rows[index] = self._vector(np.array(tokens or [0], np.int32))
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = rows / np.maximum(norms, 1e-12)
        return unit

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Return the positions of texts with more tokens than the window holds."""
        longest = self._window
        return [n for n, text in enumerate(texts)
                if len(text) > longest and len(self._tokens(text)) > longest]  # fmt: skip

    def _vector(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        self._batch.fill([Row(0, 0, tokens, True)])
        self._batch.want_all(len(tokens))
        memory = lib.llama_get_memory(self._context)
        if memory:
            lib.llama_memory_seq_rm(memory, 0, -1, -1)
        encodes = lib.llama_model_has_encoder(self._model)
        run = lib.llama_encode if encodes else lib.llama_decode
        if run(self._context, self._batch.struct):
            raise RuntimeError(f"llama.cpp cannot embed a text: {last_error()}")
        pointer = ctypes.cast(lib.llama_get_embeddings_seq(self._context, 0), ctypes.c_void_p)
        return logits_at(pointer.value or 0, self.dimensions).copy()

    def _tokens(self, text: str) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        count = lib.llama_tokenize(self._vocab, data, len(data), buffer, room, True, False)
        return buffer[: max(0, count)]
