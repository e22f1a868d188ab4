"""The llama.cpp library: the only module that imports llama_cpp; its batches, errors and memory.

Importing it is slow, so other modules import it only where they open an engine.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from .engine import Logits, Row

import llama_cpp.llama_cpp as _untyped  # isort: skip

lib: Any = _untyped

_LOG_ERROR = 4

_log_lines: deque[str] = deque(maxlen=12)


@lib.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: object) -> None:
    if level >= _LOG_ERROR:
        _log_lines.append(text.decode("utf-8", "replace").strip())


class LlamaBatch:
    """A llama_batch whose arrays are numpy arrays. ``room``: limit on tokens."""

    def __init__(self, room: int) -> None:
        self._token = np.zeros(room, np.int32)
        self._pos = np.zeros(room, np.int32)
        self._seq = np.zeros(room, np.int32)
        self._count = np.ones(room, np.int32)
        self._wants = np.zeros(room, np.int8)
        base, step = self._seq.ctypes.data, self._seq.itemsize
        self._seq_at = np.arange(base, base + room * step, step, dtype=np.uint64)
        self.struct = lib.llama_batch()
        fields = dict(lib.llama_batch._fields_)
        for name, values in (
            ("token", self._token), ("pos", self._pos), ("n_seq_id", self._count),
            ("seq_id", self._seq_at), ("logits", self._wants),
        ):  # fmt: skip
            setattr(self.struct, name, ctypes.cast(values.ctypes.data, fields[name]))

    def fill(self, rows: Sequence[Row]) -> list[tuple[int, int, int]]:
        """Write the rows; return (seat, first index, count) of the logits that rows want."""
        at = 0
        wanted = []
        self._wants[:] = 0
        for row in rows:
            end = at + len(row.tokens)
            self._token[at:end] = row.tokens
            self._pos[at:end] = np.arange(row.position, row.position + len(row.tokens))
            self._seq[at:end] = row.seat
            if row.wants_logits:
                first = end - row.wants_logits
                self._wants[first:end] = 1
                wanted.append((row.seat, first, int(row.wants_logits)))
            at = end
        self.struct.n_tokens = at
        return wanted

    def want_last(self, rows: Sequence[Row], count: int) -> None:
        """Ask for the logits of the last ``count`` tokens of each row in the batch."""
        at = 0
        for row in rows:
            end = at + len(row.tokens)
            self._wants[max(at, end - count) : end] = 1
            at = end

    def want_all(self, count: int) -> None:
        """Ask for the logits of each of the first ``count`` tokens."""
        self._wants[:count] = 1


def bytes_at(memory: memoryview) -> Any:
    """Return a uint8 pointer to writable memory; the caller keeps the memory alive."""
    address = np.frombuffer(memory, np.uint8).ctypes.data
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))


def logits_at(address: int, count: int) -> Logits:
    """Return a view of llama.cpp's own memory, valid until the next decode."""
    floats: Any = (ctypes.c_float * count).from_address(address)
    view: Logits = np.frombuffer(floats, np.float32)
    return view


def clear_errors() -> None:
    """Forget earlier error messages; call it before a call that may fail."""
    lib.llama_log_set(_on_log, None)
    _log_lines.clear()


def last_error() -> str:
    """Return the first errors since ``clear_errors`` in one line; they name the cause."""
    lines = [line.partition(": ")[2] or line for line in _log_lines if line]
    return "; ".join(lines[:2]) if lines else "it gives no reason"


def build() -> str:
    """Return the version of llama.cpp's binding, which determines that of llama.cpp."""
    from importlib.metadata import version

    return f"llama-cpp-python {version('llama_cpp_python')}"


def device(gpu_layers: int) -> str:
    """Return the device that runs the layers: GPU or CPU."""
    return "GPU" if gpu_layers and lib.llama_supports_gpu_offload() else "CPU"
