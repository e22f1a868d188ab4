"""The context window of a seat: as asked for, or what the memory allows; chosen before loading.

Promises that weights, KV of all seats and buffers fit into ``--memory``, as far as the header tells
their sizes; a model that cannot fit is refused with the numbers.
"""

from __future__ import annotations

import bisect
from typing import NamedTuple

import psutil

from aios.hw.machine.memory_limit import memory_bytes
from aios.hw.models import model_files
from aios.hw.models.gguf_header import Header
from aios.hw.models.kv_size import buffer_bytes, kv_shape

from .engine import EngineSettings, LoadError

F16, Q8_0 = (1, 2.0), (8, 34 / 32)
KV_TYPES = {"f16": (F16, F16), "q8_0": (Q8_0, Q8_0), "q8_0/f16": (Q8_0, F16),
            "f16/q8_0": (F16, Q8_0)}  # fmt: skip
"""For keys and for values: ggml's type and the bytes per element."""
_DEFAULT_KV_BYTES = 2 << 30
_STEP = 256


class Window(NamedTuple):
    """Tokens of a seat's window, those the model was trained for, and the memory of it all."""

    tokens: int
    trained: int
    memory_bytes: int


def choose_window(header: Header, settings: EngineSettings, kv_type: str) -> Window:
    """Choose the window. Raises LoadError if it exceeds the model or the memory."""
    trained = header.number(f"{header.architecture}.context_length")
    if trained < 1:
        raise LoadError(f"{settings.path} does not say for how many tokens it was trained")
    (_, key_size), (_, value_size) = KV_TYPES[kv_type]
    shape, seats, ubatch = kv_shape(header), settings.seats, settings.ubatch_tokens
    weights = model_files.weights_bytes(settings.path)
    buffers = buffer_bytes(header, ubatch, seats)
    fixed = weights + buffers

    def kv(window: int) -> int:
        return seats * shape.size_bytes(window, ubatch, key_size, value_size)

    most = min(trained, settings.window_limit or trained)
    limit = settings.memory_bytes
    asked = settings.context_tokens
    if asked is not None and asked > trained:
        raise LoadError(
            f"--ctx {asked} exceeds the {trained} tokens that {settings.path} was trained for; use "
            "at most that"
        )
    least = asked or min(_STEP, most)
    if limit is not None and fixed + kv(least) > limit:
        raise LoadError(
            f"{settings.path} needs {_mib(fixed + kv(least))} MiB: {_mib(weights)} for weights, "
            f"{_mib(kv(least))} for {seats} seats of {least} tokens, {_mib(buffers)} for buffers; "
            f"--memory is {_mib(limit)} MiB: raise it, use fewer --seats, a smaller --ctx, or a "
            "smaller format of the model"
        )
    if asked is not None:
        return Window(asked, trained, fixed + kv(asked))
    free = min(psutil.virtual_memory().available, memory_bytes()) // 4
    budget = min(_DEFAULT_KV_BYTES, free if limit is None else limit - fixed)
    steps = range(1, most // _STEP + 1)
    window = max(least, _STEP * bisect.bisect_right(steps, budget, key=lambda n: kv(n * _STEP)))
    return Window(window, trained, fixed + kv(window))


def _mib(size_bytes: int) -> str:
    return f"{-(-size_bytes >> 20):,}"
