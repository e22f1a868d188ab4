"""Copies of a model with its weights in another format, made by llama.cpp.

The original is only read. A copy takes its name when it is complete, so a file with that name is
whole.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from aios.hw.engine.engine import LoadError
from aios.hw.engine.llama_lib import clear_errors, last_error, lib
from aios.hw.machine.durable import replacing
from aios.hw.models import model_files

from .candidate import Recipe

_SMALL_BYTES = 32 << 20
_END = 43
"""GGML_TYPE_COUNT; ends the list of tensors."""


class NoRoom(OSError):
    """The disk is full; the incomplete copy was removed."""


def requantise(source: Path, copy: Path, recipe: Recipe, threads: int) -> int:
    """Make the copy and return its size in bytes.

    Raises LoadError if llama.cpp cannot convert the model, NoRoom, and OSError.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    with replacing(copy) as part:
        _quantise(source, part, recipe, threads)
    return copy.stat().st_size


def _quantise(source: Path, part: Path, recipe: Recipe, threads: int) -> None:
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = recipe.ftype, threads
    params.allow_requantize = True
    overrides = (lib.llama_model_tensor_override * (len(recipe.tensors) + 1))()
    for place, (pattern, kind) in zip(overrides, recipe.tensors, strict=False):
        place.pattern, place.type = pattern.encode(), kind
    overrides[-1].pattern, overrides[-1].type = None, _END
    if recipe.tensors:
        params.tt_overrides = overrides
    clear_errors()
    code = lib.llama_model_quantize(os.fsencode(source), os.fsencode(part), ctypes.byref(params))
    if code:
        reason = last_error()
        free = shutil.disk_usage(part.parent).free
        if free < max(_SMALL_BYTES, model_files.size_bytes(source) // 50):
            raise NoRoom(f"no room for a copy of {source.name} in {part.parent}")
        raise LoadError(f"llama.cpp cannot convert {source.name}: {reason}")
