"""Pace: how many requests run at once, and how long their slices and prompt chunks are.

The operator sets these, or they follow from the speed that the core measured when it loaded the
model. A slice then takes about as long everywhere, and so does a step with a chunk of prompt, for
which streams have to wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from aios.hw.engine.engine import EngineInfo

from .policy import Policy

LONE_CHUNK_FACTOR = 2
"""How many times larger a prompt chunk is while no stream has to wait for it."""
_SLICE_S = 0.5
"""Target duration of a slice in which all seats generate."""
_CHUNK_S = 0.25
"""Target duration of a step with a chunk of prompt."""


@dataclass
class Settings:
    """Settings that the operator may change while the kernel runs; shared by all models.

    ``None`` for quantum or chunk: by the speed that the core has measured.
    """

    policy: Policy
    quantum_tokens: int | None
    width: int
    chunk_tokens: int | None


class Pace:
    """The values in force for one model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._width, self._quantum, self._chunk = 1, 16, 64
        self.decode_cost = 1.0
        """Cost of a generated token, in prompt tokens."""

    def measured(self, info: EngineInfo) -> None:
        """Follow what a core has measured."""
        self._width = info.rung.width or info.seats
        self.decode_cost = info.decode_token_s / max(info.prefill_token_s, 1e-9)
        self._quantum, self._chunk = quantum_tokens(info), chunk_tokens(info)

    @property
    def width(self) -> int:
        """Rows in a slice."""
        return min(self._settings.width, self._width)

    @property
    def quantum_tokens(self) -> int:
        """Tokens of a quantum."""
        return self._settings.quantum_tokens or self._quantum

    @property
    def chunk_tokens(self) -> int:
        """Prompt tokens of a chunk."""
        return self._settings.chunk_tokens or self._chunk


def quantum_tokens(info: EngineInfo) -> int:
    """Return the quantum that takes the target duration in a full batch, from 8 to 64 tokens."""
    step_s = info.decode_token_s * info.seats
    return int(min(64, max(8, _SLICE_S / max(step_s, 1e-6))))


def chunk_tokens(info: EngineInfo) -> int:
    """Return the chunk that takes the target duration: a power of two from 32 to 512 tokens."""
    most = _CHUNK_S / max(info.prefill_token_s, 1e-9)
    return next((size for size in (512, 256, 128, 64) if size <= most), 32)
