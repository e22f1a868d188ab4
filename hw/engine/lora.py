"""LoRA adapters of a loaded model, which llama.cpp adds to each decode."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from aios.hw.models import adapter_files
from aios.hw.models.aliases import Adapter

from .engine import LoadError
from .llama_lib import clear_errors, last_error, lib


def check(path: str, adapters: Sequence[Adapter]) -> None:
    """Check, before a model is loaded, that adapters fit it. Raises LoadError."""
    try:
        adapter_files.check(path, adapters)
    except adapter_files.BadAdapter as error:
        raise LoadError(str(error.args[0])) from None


def attach(model: Any, context: Any, adapters: Sequence[Adapter]) -> None:
    """Load adapters and use them in a context; the model frees them. Raises LoadError."""
    if not adapters:
        return
    loaded = (lib.llama_adapter_lora_p_ctypes * len(adapters))()
    scales = (ctypes.c_float * len(adapters))(*(each.scale for each in adapters))
    for index, adapter in enumerate(adapters):
        clear_errors()
        pointer = lib.llama_adapter_lora_init(model, adapter.path.encode())
        if not pointer:
            raise LoadError(f"llama.cpp cannot load the adapter {adapter.path}: {last_error()}")
        loaded[index] = pointer
    if lib.llama_set_adapters_lora(context, loaded, len(adapters), scales):
        raise LoadError(f"llama.cpp cannot use {len(adapters)} adapters: {last_error()}")
