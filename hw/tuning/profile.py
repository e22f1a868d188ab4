"""The profile: what ``aios model tune`` chose for a model on this machine, read when it is loaded.

    CACHE/tune/MODEL_HASH/profile-….json   the choices, by build, CPU and device
    CACHE/tune/MODEL_HASH/FORMAT.gguf      the copy that a choice names

Promises that a choice is used only with the copy it was measured with; one that is missing or
damaged is reported and the original is loaded. What was asked for explicitly wins over a choice.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from aios.hw.engine.engine import EngineSettings, Tuned
from aios.hw.engine.models import header_problem, model_hash
from aios.hw.machine import cache

from .candidate import ORIGINAL, Candidate

VERSION = 1
RETUNE = "make it again: aios model tune"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that won. ``copy_hash`` is the model hash of its file."""

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
    """For ``--exact off``."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found for one model, build, CPU and device."""

    version: int
    entries: list[Entry]

    def nearest(self, seats: int) -> Entry | None:
        """The entry for this number of seats, or the one that is least far from it."""
        return min(self.entries, key=lambda e: abs(math.log(max(1, e.seats) / seats)), default=None)


def folder(cache_dir: Path, source_hash: str) -> Path:
    """Everything that tuning keeps of one model."""
    return cache_dir / "tune" / source_hash


def copy_path(home: Path, weights: str) -> Path:
    """Where the copy in a format is."""
    return home / f"{weights}.gguf"


def profile_path(home: Path, build: str, device: str) -> Path:
    """Where the choices for this build, CPU and device are."""
    return home / f"profile-{cache.key(build, cache.machine(), device)}.json"


def read(home: Path, build: str, device: str) -> Profile | None:
    """The profile, unless there is none that can be read."""
    profile = cache.read(profile_path(home, build, device), Profile)
    return profile if profile and profile.version == VERSION else None


def add(home: Path, build: str, device: str, entry: Entry) -> None:
    """Keep the choices for a number of seats, in place of those there were. Raises OSError."""
    known = read(home, build, device)
    others = [e for e in known.entries if e.seats != entry.seats] if known else []
    profile = Profile(version=VERSION, entries=[*others, entry])
    cache.write(profile_path(home, build, device), profile)


def look_up(settings: EngineSettings, build: str, device: str) -> tuple[Tuned | None, str]:
    """What is in force for this model, and what is wrong with a profile that is not."""
    if settings.tuned:
        return _usable(settings.tuned)
    if not settings.look_up_tuned or not settings.cache_dir:
        return None, ""
    source = Path(settings.path)
    if header_problem(source):
        return None, ""  # loading it says so
    home = folder(Path(settings.cache_dir), model_hash(source))
    path = profile_path(home, build, device)
    if not path.exists():
        return None, ""
    profile = read(home, build, device)
    entry = profile.nearest(settings.seats) if profile else None
    if not entry:
        return None, f"the tuned profile {path} cannot be read; {RETUNE}"
    choice = entry.exact if settings.exact else entry.fastest
    return _usable(resolve(choice, source, home))


def resolve(choice: Choice, source: Path, home: Path) -> Tuned:
    """A choice with the path of its file."""
    candidate = choice.candidate
    original = candidate.weights == ORIGINAL
    return Tuned(
        path=str(source if original else copy_path(home, candidate.weights)),
        model_hash=choice.copy_hash, weights=candidate.weights, rung=candidate.rung,
        ubatch_tokens=candidate.ubatch_tokens, threads=candidate.threads,
    )  # fmt: skip


def _usable(tuned: Tuned) -> tuple[Tuned | None, str]:
    """It, or why its file cannot be used."""
    path = Path(tuned.path)
    if not path.exists():
        return None, f"{path} is missing; {RETUNE}"
    problem = header_problem(path)
    if not problem and model_hash(path) != tuned.model_hash:
        problem = f"{path} is not the file that was measured"
    return (None, f"{problem}; {RETUNE}") if problem else (tuned, "")


def apply(settings: EngineSettings, tuned: Tuned) -> EngineSettings:
    """The settings with the choice in force; a thread count that was asked for stays."""
    return msgspec.structs.replace(
        settings, path=tuned.path, threads=settings.threads or tuned.threads,
        ubatch_tokens=tuned.ubatch_tokens,
    )  # fmt: skip


def says(tuned: Tuned) -> str:
    """For people: what is in force."""
    parts = ["original weights" if tuned.weights == ORIGINAL else tuned.weights]
    parts += [] if tuned.ubatch_tokens == EngineSettings(path="").ubatch_tokens else [
        f"ubatch {tuned.ubatch_tokens}"
    ]  # fmt: skip
    return f"tuned: {', '.join(parts)}"
