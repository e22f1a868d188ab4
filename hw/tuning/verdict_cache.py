"""Outcomes of tests and measurements of a model on this machine, kept in the cache.

The key is model, build, CPU, threads, device and seats (``MAX_SEATS`` stand for more).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from aios.hw.engine.engine import EngineInfo, EngineSettings, Rung
from aios.hw.machine import json_cache

TEST_VERSION = "5"
"""Version of the self-test; outcomes of an older one are not used."""
MAX_SEATS = 8

T = TypeVar("T")


class Finding(Generic[T]):
    """One kept outcome; ``value`` is None if it is unknown. ``what`` names what was tested."""

    def __init__(
        self, kind: type[T], settings: EngineSettings, info: EngineInfo, folder: str, what: str
    ) -> None:
        self._path: Path | None = None
        self.value: T | None = None
        if settings.cache_dir:
            key = json_cache.key(
                info.model_hash, info.build, json_cache.machine(), str(info.threads),
                str(min(info.seats, MAX_SEATS)), info.device, what,
                str(settings.ubatch_tokens), TEST_VERSION,
            )  # fmt: skip
            self._path = Path(settings.cache_dir) / folder / f"{key}.json"
            self.value = json_cache.read(self._path, kind)

    def keep(self, value: T) -> None:
        """Keep the outcome; a cache that cannot be written is not an error."""
        if self._path and self.value is None:
            with contextlib.suppress(OSError):
                json_cache.write(self._path, value)
        self.value = value


class Verdict(msgspec.Struct, frozen=True):
    """The outcome of the self-test for one rung."""

    exact: bool
    rung: str


def verdict(settings: EngineSettings, info: EngineInfo, rung: Rung) -> Finding[Verdict]:
    """Look up the outcome of the self-test for a rung."""
    return Finding(Verdict, settings, info, "exact", repr(rung))
