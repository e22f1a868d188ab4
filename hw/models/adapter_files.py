"""LoRA adapters: whether one fits a model, and what it adds to the model's identity."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import xxhash

from . import model_files
from .aliases import Adapter
from .gguf_header import Header, ModelFileError, read_header

MAX_ADAPTERS = 16
_MAX_SCALE = 1000.0


class BadAdapter(LookupError):
    """An adapter cannot be used; the text gives the reason and the cure."""


def parse(texts: Sequence[str]) -> tuple[Adapter, ...]:
    """Read ``FILE`` or ``FILE:SCALE`` each. Paths become absolute. Raises BadAdapter."""
    if len(texts) > MAX_ADAPTERS:
        raise BadAdapter(f"{len(texts)} LoRA adapters; the limit is {MAX_ADAPTERS}")
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Adapter:
    path, colon, scale = text.rpartition(":")
    try:
        value = float(scale) if colon else 1.0
    except ValueError:
        path, value = "", 1.0
    if not math.isfinite(value) or abs(value) > _MAX_SCALE:
        raise BadAdapter(f"{text!r}: the scale {scale} is not between ±{_MAX_SCALE:g}")
    return Adapter(os.path.abspath(path or text), value)


def check(model: str, adapters: Sequence[Adapter]) -> None:
    """Check that adapters fit a model. Raises BadAdapter."""
    if not adapters:
        return
    if model.startswith("fake"):
        raise BadAdapter("the fake model takes no LoRA adapters")
    try:
        base = model_files.check(Path(model))
        tensors = {tensor.name: tensor.shape for header in model_files.headers(base)
                   for tensor in header.tensors}  # fmt: skip
        for adapter in adapters:
            _check_one(read_header(Path(adapter.path)), base, tensors)
    except ModelFileError as error:
        raise BadAdapter(str(error)) from None


def _check_one(adapter: Header, base: Header, tensors: dict[str, tuple[int, ...]]) -> None:
    path = adapter.path
    if adapter.text("general.type") != "adapter":
        raise BadAdapter(
            f"{path} is no LoRA adapter in GGUF; make one of the adapter's folder with llama.cpp's "
            "convert_lora_to_gguf.py"
        )
    kind = adapter.text("adapter.type")
    if kind != "lora":
        raise BadAdapter(f"{path} is an adapter of the kind {kind!r}; only lora can be used")
    if adapter.needed_bytes > adapter.file_bytes:
        raise BadAdapter(
            f"{path} is cut short: it has {adapter.file_bytes:,} of {adapter.needed_bytes:,} bytes;"
            " download it again"
        )
    if adapter.architecture != base.architecture:
        raise BadAdapter(
            f"{path} is for the architecture {adapter.architecture!r}; {base.path} is "
            f"{base.architecture!r}: use the model that it was trained on"
        )
    for tensor in adapter.tensors:
        name, _, side = tensor.name.rpartition(".lora_")
        shape = tensors.get(name)
        fits = side != "a" or name.startswith("token_embd") or tensor.shape[:1] == (shape or ())[:1]
        if shape is None or not fits:
            raise BadAdapter(
                f"{path} does not fit {base.path}: it changes {name or tensor.name!r}, which the "
                "model does not have in that size; use the model that it was trained on"
            )


def identity(path: Path, adapters: Sequence[Adapter]) -> str:
    """Return the hash of a model with adapters; the model's own if there are none.

    Raises OSError.
    """
    model_hash = model_files.model_hash(path)
    if not adapters:
        return model_hash
    digest = xxhash.xxh3_64(model_hash.encode())
    for adapter in adapters:
        digest.update(f"{model_files.model_hash(Path(adapter.path))} {adapter.scale!r}".encode())
    return str(digest.hexdigest())
