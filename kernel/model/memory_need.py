"""The memory that a model needs: known from its files before it is loaded, from its core after."""

from __future__ import annotations

from aios.hw.models import model_files

from .model import Model


def weights_bytes(model: Model) -> int:
    """Return the size of the files that are loaded."""
    tuned = model.info.tuned if model.info else None
    return model_files.weights_bytes(tuned.path if tuned else model.path)


def needed_bytes(model: Model) -> int:
    """Return the size of weights, KV and buffers; before the first load, of the weights alone."""
    info = model.info
    kv = info.seats * info.context_tokens * info.image_token_bytes if info else 0
    return (info.memory_bytes if info else 0) or weights_bytes(model) + kv
