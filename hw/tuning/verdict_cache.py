"""Outcomes of tests and measurements of a model on this machine, kept in the cache.

The key is model, build, CPU, threads, device and ubatch, so a finding can be looked up before the
model is loaded. The number of seats is no part of it: tests always use ``TEST_SEATS``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from aios.hw.engine.engine import EngineSettings, Rung
from aios.hw.machine import json_cache
from aios.hw.machine.threads import default_threads
from aios.hw.models.adapter_files import identity

TEST_VERSION = "9"
"""Version of the self-test; outcomes of an older one are not used."""
TEST_SEATS = 8
"""Seats of an engine under test; the verdict counts for every number of seats."""

T = TypeVar("T")


class Subject(msgspec.Struct, frozen=True):
    """A model as this machine runs it; findings are about a subject and, mostly, a rung."""

    model_hash: str
    build: str
    threads: int
    device: str
    ubatch_tokens: int


def subject_of(settings: EngineSettings) -> Subject:
    """Describe what an engine with these settings will run. Raises OSError."""
    from aios.hw.engine import llama_lib

    return Subject(
        identity(Path(settings.path), settings.lora), llama_lib.build(),
        settings.threads or default_threads(), llama_lib.device(settings.gpu_layers),
        settings.ubatch_tokens,
    )  # fmt: skip


class Finding(Generic[T]):
    """One kept outcome; ``value`` is None if it is unknown. ``what`` names what was tested."""

    def __init__(
        self, kind: type[T], cache_dir: str | None, subject: Subject, folder: str, what: str
    ) -> None:
        self._path: Path | None = None
        self.value: T | None = None
        if cache_dir:
            key = json_cache.key(
                subject.model_hash, subject.build, json_cache.machine(), str(subject.threads),
                subject.device, what, str(subject.ubatch_tokens), TEST_VERSION,
            )  # fmt: skip
            self._path = Path(cache_dir) / folder / f"{key}.json"
            self.value = json_cache.read(self._path, kind)

    def keep(self, value: T) -> bool:
        """Keep the outcome, if none is known. Return False if the cache cannot be written, which
        is not an error."""
        known, self.value = self.value, value
        if known is not None or self._path is None:
            return known is not None
        try:
            json_cache.write(self._path, value)
        except OSError:
            return False
        return True


class Verdict(msgspec.Struct, frozen=True):
    """The outcome of the self-test for one rung. ``reason``: how it failed, if not by a logit;
    ``draft_tokens``: limit on the length of drafts, 0 if they change logits."""

    exact: bool
    rung: str
    reason: str = ""
    draft_tokens: int = 0


def verdict(cache_dir: str | None, subject: Subject, rung: Rung) -> Finding[Verdict]:
    """Look up the outcome of the self-test for a rung."""
    return Finding(Verdict, cache_dir, subject, "exact", repr(rung))
