"""Outcomes of tests and measurements of a model on this machine, kept in the cache.

The key is model, build, CPU, threads, device and seats (``MAX_SEATS`` stand for more).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

import msgspec

from aios.hw.engine.engine import EngineInfo, EngineSettings, Rung
from aios.hw.machine import json_cache

TEST_VERSION = "5"
"""Version of the self-test; outcomes of an older one are not used."""
MAX_SEATS = 8

T = TypeVar("T")


class _Exact(msgspec.Struct, frozen=True):
    exact: bool
    rung: str


class Finding:
    """The cache file for one kind of outcome, with these settings on this machine."""

    def __init__(self, settings: EngineSettings, info: EngineInfo, kind: str, what: str) -> None:
        self._path: Path | None = None
        if settings.cache_dir:
            key = json_cache.key(
                info.model_hash, info.build, json_cache.machine(), str(info.threads),
                str(min(info.seats, MAX_SEATS)), info.device, what,
                str(settings.ubatch_tokens), TEST_VERSION,
            )  # fmt: skip
            self._path = Path(settings.cache_dir) / kind / f"{key}.json"

    def read(self, kind: type[T]) -> T | None:
        """Return the outcome, or None if none is kept."""
        return json_cache.read(self._path, kind) if self._path else None

    def write(self, value: object) -> None:
        """Keep the outcome; a cache that cannot be written is not an error."""
        if self._path:
            with contextlib.suppress(OSError):
                json_cache.write(self._path, value)


class Verdict:
    """The kept outcome of the self-test for one rung."""

    def __init__(self, settings: EngineSettings, info: EngineInfo, rung: Rung) -> None:
        self._rung, self._file = rung, Finding(settings, info, "exact", repr(rung))
        kept = self._file.read(_Exact)
        self.exact = kept.exact if kept else None
        """None: not tested yet."""

    def keep(self, exact: bool) -> None:
        """Keep the outcome unless one is kept already."""
        if self.exact is None:
            self.exact = exact
            self._file.write(_Exact(exact, self._rung.name))
