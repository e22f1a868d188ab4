"""The profile: the settings that ``aios model tune`` chose, read when the model is loaded.

    CACHE/tune/MODEL_HASH/profile-….json   the choices, by build, CPU and device
    CACHE/tune/MODEL_HASH/FORMAT.gguf      the copy that a choice names

A choice is used only with the copy it was measured with. If that copy is missing or damaged, this
is reported and the original is loaded. Explicit settings win over a choice.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from aios.hw.engine.engine import EngineSettings, Tuned
from aios.hw.machine import json_cache
from aios.hw.models import model_files
from aios.hw.models.model_files import model_hash

from .candidate import ORIGINAL, Candidate

VERSION = 1
RETUNE = "make it again with: aios model tune"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A chosen candidate. ``copy_hash`` is the model hash of its file."""

    candidate: Candidate
    copy_hash: str
    mix_tokens_per_s: float
    over_original: float
    worse_percent: float


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The choices for one number of seats."""

    seats: int
    exact: Choice
    fastest: Choice
    """The choice for ``--exact off``."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """All choices for one model, build, CPU and device."""

    version: int
    entries: list[Entry]

    def nearest(self, seats: int) -> Entry | None:
        """Return the entry for the nearest number of seats, by ratio; None without entries."""
        return min(self.entries, key=lambda e: abs(math.log(max(1, e.seats) / seats)), default=None)


def folder(cache_dir: Path, source_hash: str) -> Path:
    """Return the folder of everything that tuning keeps for one model."""
    return cache_dir / "tune" / source_hash


def copy_path(home: Path, weights: str) -> Path:
    """Return the path of the copy in a format."""
    return home / f"{weights}.gguf"


def profile_path(home: Path, build: str, device: str) -> Path:
    """Return the path of the profile for this build, CPU and device."""
    return home / f"profile-{json_cache.key(build, json_cache.machine(), device)}.json"


def read(home: Path, build: str, device: str) -> Profile | None:
    """Read the profile; None if there is none or it cannot be read."""
    profile = json_cache.read(profile_path(home, build, device), Profile)
    return profile if profile and profile.version == VERSION else None


def add(home: Path, build: str, device: str, entry: Entry) -> None:
    """Keep the choices for a number of seats, replacing earlier ones. Raises OSError."""
    known = read(home, build, device)
    others = [e for e in known.entries if e.seats != entry.seats] if known else []
    profile = Profile(version=VERSION, entries=[*others, entry])
    json_cache.write(profile_path(home, build, device), profile)


def look_up(settings: EngineSettings, build: str, device: str) -> tuple[Tuned | None, str]:
    """Return the choice for this model, if any, and the problem if its profile is unusable."""
    if settings.predecessor:
        tuned = settings.predecessor.tuned
        return _usable(tuned) if tuned else (None, "")
    if not settings.look_up_tuned or not settings.cache_dir:
        return None, ""
    source = Path(settings.path)
    if model_files.problem(source):
        return None, ""  # loading reports it
    home = folder(Path(settings.cache_dir), model_hash(source))
    path = profile_path(home, build, device)
    if not path.exists():
        return None, ""
    profile = read(home, build, device)
    entry = profile.nearest(settings.seats) if profile else None
    if not entry:
        return None, f"the tuned profile {path} cannot be read; {RETUNE}"
    choice = entry.exact if settings.exact else entry.fastest
    candidate = choice.candidate
    path = source if candidate.weights == ORIGINAL else copy_path(home, candidate.weights)
    return _usable(Tuned(
        path=str(path), model_hash=choice.copy_hash, weights=candidate.weights, rung=candidate.rung,
        ubatch_tokens=candidate.ubatch_tokens, threads=candidate.threads,
    ))  # fmt: skip


def _usable(tuned: Tuned) -> tuple[Tuned | None, str]:
    """Return the choice, or None and the reason why its file cannot be used."""
    path = Path(tuned.path)
    if not path.exists():
        return None, f"{path} is missing; {RETUNE}"
    problem = model_files.problem(path)
    if not problem and model_hash(path) != tuned.model_hash:
        problem = f"{path} is not the file that was measured"
    return (None, f"{problem}; {RETUNE}") if problem else (tuned, "")


def apply(settings: EngineSettings, tuned: Tuned) -> EngineSettings:
    """Return the settings with the choice applied; an explicit thread count stays."""
    return msgspec.structs.replace(
        settings, path=tuned.path, threads=settings.threads or tuned.threads,
        ubatch_tokens=tuned.ubatch_tokens,
    )  # fmt: skip


def describe(tuned: Tuned) -> str:
    """Describe the choice for people."""
    text = "tuned: original weights" if tuned.weights == ORIGINAL else f"tuned: {tuned.weights}"
    usual = tuned.ubatch_tokens == EngineSettings(path="").ubatch_tokens
    return text if usual else f"{text}, ubatch {tuned.ubatch_tokens}"
