"""The profile: when a tuned choice is used, and when it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios.hw.engine.engine import EngineSettings
from aios.hw.engine.fake import FakeEngine
from aios.hw.models.model_files import model_hash
from aios.hw.tuning import profile, tune
from aios.hw.tuning.candidate import ORIGINAL, Candidate
from aios.hw.tuning.exact_settings import RUNGS
from tests.hw.models.gguf_maker import write


def _gguf(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    path.write_bytes(path.read_bytes() + content)
    return path


@pytest.fixture
def tuned(tmp_path: Path) -> tuple[EngineSettings, Path]:
    """A model with a profile: a copy for 8 seats, the original's weights for 1."""
    source = _gguf(tmp_path / "model.gguf", b"original")
    home = profile.folder(tmp_path, model_hash(source))
    copy = _gguf(profile.copy_path(home, "Q8_0"), b"copy")
    copied, original = (
        profile.Choice(
            candidate=Candidate(weights, RUNGS[0], 3, 256), copy_hash=model_hash(path),
            mix_tokens_per_s=1.0, over_original=1.0, worse_percent=0.0,
        )
        for weights, path in (("Q8_0", copy), (ORIGINAL, source))
    )  # fmt: skip
    for seats, exact, fastest in ((8, copied, original), (1, original, copied)):
        entry = profile.Entry(seats=seats, exact=exact, fastest=fastest)
        profile.add(home, "build", "CPU", entry)
    return EngineSettings(path=str(source), cache_dir=str(tmp_path)), home


def _found(settings: EngineSettings, **changes: Any) -> tuple[str, str]:
    settings = msgspec.structs.replace(settings, **changes)
    tuned, problem = profile.look_up(settings, "build", "CPU")
    return (tuned.weights if tuned else ""), problem


def test_a_profile_is_found_for_the_nearest_seats(tuned: tuple[EngineSettings, Path]) -> None:
    settings, _ = tuned
    assert _found(settings) == ("Q8_0", "")
    assert _found(settings, exact=False) == (ORIGINAL, "")
    assert _found(settings, seats=2) == (ORIGINAL, "")
    assert _found(settings, seats=256) == ("Q8_0", "")
    assert _found(settings, look_up_tuned=False) == ("", "")
    assert _found(settings, cache_dir=None) == ("", "")
    assert profile.look_up(settings, "another build", "CPU") == (None, "")
    assert profile.look_up(settings, "build", "GPU") == (None, "")


def test_an_explicit_thread_count_wins(tuned: tuple[EngineSettings, Path]) -> None:
    settings, home = tuned
    found, _ = profile.look_up(settings, "build", "CPU")
    assert found
    applied = profile.apply(settings, found)
    assert (applied.threads, applied.ubatch_tokens) == (3, 256)
    assert applied.path == str(profile.copy_path(home, "Q8_0"))
    asked = profile.apply(msgspec.structs.replace(settings, threads=1), found)
    assert asked.threads == 1


def test_a_replacing_core_uses_the_same_copy(
    tuned: tuple[EngineSettings, Path],
) -> None:
    settings, home = tuned
    choice, _ = profile.look_up(settings, "build", "CPU")
    fake = FakeEngine(EngineSettings(path="fake")).info
    before = msgspec.structs.replace(fake, tuned=choice)
    profile.profile_path(home, "build", "CPU").unlink()
    assert _found(settings, predecessor=before) == ("Q8_0", "")
    profile.copy_path(home, "Q8_0").unlink()
    weights, problem = _found(settings, predecessor=before)
    assert not weights and "missing" in problem and "aios model tune" in problem


def test_a_replacing_core_uses_no_copy_that_was_made_since(
    tuned: tuple[EngineSettings, Path],
) -> None:
    settings, _ = tuned
    assert _found(settings, predecessor=FakeEngine(EngineSettings(path="fake")).info) == ("", "")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"version": 99, "entries": []}'])
def test_an_unreadable_profile_is_reported(
    tuned: tuple[EngineSettings, Path], content: bytes
) -> None:
    settings, home = tuned
    profile.profile_path(home, "build", "CPU").write_bytes(content)
    weights, problem = _found(settings)
    assert not weights and "cannot be read" in problem


def test_another_file_in_place_of_the_copy_is_reported(tuned: tuple[EngineSettings, Path]) -> None:
    settings, home = tuned
    _gguf(profile.copy_path(home, "Q8_0"), b"other")
    assert "not the file that was measured" in _found(settings)[1]
    profile.copy_path(home, "Q8_0").write_bytes(b"")
    assert "no GGUF model" in _found(settings)[1]


def test_reset_removes_all_but_the_original(tuned: tuple[EngineSettings, Path]) -> None:
    settings, home = tuned
    before = Path(settings.path).read_bytes()
    assert len(tune.reset(home)) == 2 and not home.exists()
    assert tune.reset(home) == []
    assert _found(settings) == ("", "") and Path(settings.path).read_bytes() == before
