"""What was found out about a model with some settings on this machine, kept in files.

Found again by model, build, CPU, threads, device and seats (``MOST_SEATS`` stand for more).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

import msgspec

from aios.hw.engine.engine import EngineInfo, EngineSettings, Rung
from aios.hw.machine import cache

TEST_VERSION = "5"
"""Of the self-test: what an older one found is found out again."""
MOST_SEATS = 8

T = TypeVar("T")


class _Exact(msgspec.Struct, frozen=True):
    exact: bool
    rung: str


class Finding:
    """What was found out about a model with these settings on this machine, kept in a file."""

    def __init__(self, settings: EngineSettings, info: EngineInfo, kind: str, what: str) -> None:
        self._path: Path | None = None
        if settings.cache_dir:
            key = cache.key(
                info.model_hash, info.build, cache.machine(), str(info.threads),
                str(min(info.seats, MOST_SEATS)), info.device, what,
                str(settings.ubatch_tokens), TEST_VERSION,
            )  # fmt: skip
            self._path = Path(settings.cache_dir) / kind / f"{key}.json"

    def read(self, kind: type[T]) -> T | None:
        """What was kept, if anything."""
        return cache.read(self._path, kind) if self._path else None

    def write(self, value: object) -> None:
        """Keep it; a cache that cannot be written is no error."""
        if self._path:
            with contextlib.suppress(OSError):
                cache.write(self._path, value)


class Verdict:
    """Whether a rung passed, kept in a file for each model, build, machine and settings."""

    def __init__(self, settings: EngineSettings, info: EngineInfo, rung: Rung) -> None:
        self._rung, self._file = rung, Finding(settings, info, "exact", repr(rung))
        kept = self._file.read(_Exact)
        self.exact = kept.exact if kept else None
        """None: not tested yet."""

    def keep(self, exact: bool) -> None:
        """Write it."""
        if self.exact is None:
            self.exact = exact
            self._file.write(_Exact(exact, self._rung.name))
