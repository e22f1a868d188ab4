"""Pace: the length of slices and of chunks of prompt that suits the machine's speed.

The core measures its speed when it loads a model. A slice then takes about as long everywhere, and
so does a step with a chunk of prompt, which those whose tokens are streamed have to wait for.
"""

from __future__ import annotations

from aios.hw.engine.engine import EngineInfo

_SLICE_S, _CHUNK_S = 0.5, 0.25
"""Aimed at: seconds of a slice with all seats generating, and of a step with a chunk."""


def quantum_tokens(info: EngineInfo) -> int:
    """A quantum that takes a good part of a second here, in a full batch."""
    step_s = info.decode_token_s * info.seats
    return int(min(64, max(8, _SLICE_S / max(step_s, 1e-6))))


def chunk_tokens(info: EngineInfo) -> int:
    """A chunk of prompt that streams hardly notice here: a power of two from 32 to 512."""
    most = _CHUNK_S / max(info.prefill_token_s, 1e-9)
    return next((size for size in (512, 256, 128, 64) if size <= most), 32)
