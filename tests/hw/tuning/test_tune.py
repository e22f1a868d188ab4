"""Tuning: the search with made-up results, what is kept of it, and how it ends when it cannot."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios.hw.engine.engine import EngineSettings, Rung
from aios.hw.engine.model_files import model_hash
from aios.hw.machine import json_cache
from aios.hw.tuning import perplexity, profile, tune
from aios.hw.tuning.candidate import (
    FORMATS,
    ORIGINAL,
    Candidate,
    Result,
    TuningJob,
    score,
)
from aios.hw.tuning.ladder import RUNGS
from aios.hw.tuning.progress import Progress
from aios.hw.tuning.report import Report, show
from aios.hw.tuning.search import Search, Unusable, Wish

WISH = Wish(ladder=RUNGS, threads=(2, 1))
TEXT = (-900.0, -900.0)
Speed = Callable[[Candidate], float]


class World:
    """Answers jobs. Speeds relative to the original; ``worse``: percent; ``inexact``: weights."""

    def __init__(
        self,
        speed: dict[str, float] | None = None,
        worse: dict[str, float] | None = None,
        inexact: dict[str, int] | None = None,
        crash: str = "",
    ) -> None:
        self.speed = {ORIGINAL: 1.0, "Q8_0": 1.5, "Q4_0": 2.0, **(speed or {})}
        self.worse = {"Q4_0": 18.0, **(worse or {})}
        self.inexact = inexact or {}
        """Weights → rungs of the ladder that fail."""
        self.crash = crash
        self.asked: list[TuningJob] = []

    def __call__(self, job: TuningJob) -> Result:
        self.asked.append(job)
        weights = job.candidate.weights
        if self.crash and job.key.startswith(self.crash):
            return Result(failed="llama.cpp crashed (signal 6)")
        if job.kind == "speed":
            return self._look(job.candidate)
        if job.kind == "perplexity":
            loss = 300 * self.worse.get(weights, 0.0) / 100
            return Result(windows=tuple(w - loss for w in TEXT), tokens=(300, 300))
        if job.kind == "exact":
            rung = job.candidate.rung
            return Result(exact=rung in RUNGS and RUNGS.index(rung) >= self.inexact.get(weights, 0))
        return Result(size_bytes=1)

    def _look(self, candidate: Candidate) -> Result:
        speed = self.speed.get(candidate.weights, 0.8)
        speed *= {"q8_0": 0.9, "f16": 0.8}.get(candidate.rung.kv_type, 1.0)
        speed *= 1.0 if candidate.threads == 2 else 0.6
        speed *= {None: 1.0, 1: 0.4}[candidate.rung.width]
        speed *= 1.0 if candidate.ubatch_tokens == 512 else 0.9
        speed *= 1.0 if candidate.rung.mixed else 0.99
        return Result(prefill=300 * speed, alone=60 * speed, together=170 * speed)


@pytest.fixture
def quiet(tmp_path: Path) -> Progress:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF")
    return Progress(source, len(FORMATS), quiet=True)


def _search(
    world: Callable[[TuningJob], Result], tmp_path: Path, quiet: Progress, wish: Wish = WISH
) -> Search:
    return tune.tune(wish, tune.Journal(tmp_path / "home" / "results.json"), world, quiet)


def test_the_fastest_that_reads_well_and_is_exact_wins(tmp_path: Path, quiet: Progress) -> None:
    search = _search(World(), tmp_path, quiet)
    assert search.exact.candidate == Candidate("Q8_0", RUNGS[0], 2)
    assert search.fastest is search.exact
    notes = {trial.candidate.weights: trial.note for trial in search.trials}
    assert notes["Q4_0"] == "predicts worse" and notes["Q6_K"] == "slower"
    assert search.exact.score / search.baseline.score == pytest.approx(1.5)


def test_a_larger_limit_lets_more_in(tmp_path: Path, quiet: Progress) -> None:
    wish = msgspec.structs.replace(WISH, limit_percent=25.0)
    assert _search(World(), tmp_path, quiet, wish).exact.candidate.weights == "Q4_0"


def test_nothing_faster_leaves_the_original(tmp_path: Path, quiet: Progress) -> None:
    world = World(speed={"Q8_0": 1.01, "Q4_0": 0.9})
    search = _search(world, tmp_path, quiet)
    assert search.exact.candidate == Candidate(ORIGINAL, RUNGS[0], 2)
    assert {job.candidate.weights for job in world.asked if job.kind == "drop"} == set(FORMATS)


def test_what_is_not_exact_serves_only_without_exactness(tmp_path: Path, quiet: Progress) -> None:
    search = _search(World(worse={"Q4_0": 0.5}, inexact={"Q4_0": 4}), tmp_path, quiet)
    assert search.exact.candidate.weights == "Q8_0" and search.exact.exact
    assert search.fastest.candidate.weights == "Q4_0" and not search.fastest.exact


def test_a_lower_rung_counts_with_its_own_speed(tmp_path: Path, quiet: Progress) -> None:
    world = World(worse={"Q4_0": 0.5}, inexact={"Q4_0": 1, ORIGINAL: 4})
    search = _search(world, tmp_path, quiet)
    assert search.baseline.candidate == Candidate(ORIGINAL, RUNGS[-1], 2)
    assert search.exact.candidate == Candidate("Q4_0", RUNGS[1], 2)


def test_a_candidate_that_crashes_costs_only_itself(tmp_path: Path, quiet: Progress) -> None:
    for crash in ("copy Q4_0", "speed Q4_0", "perplexity Q4_0", "exact Q4_0"):
        world = World(crash=crash, worse={"Q4_0": 0.0})
        search = _search(world, tmp_path / crash.replace(" ", "-"), quiet)
        assert search.exact.candidate.weights == "Q8_0"
        assert any("crashed" in trial.note for trial in search.trials)


def test_an_original_that_crashes_is_an_error(tmp_path: Path, quiet: Progress) -> None:
    for number, crash in enumerate(("speed original", "perplexity original")):
        with pytest.raises(Unusable, match="crashed"):
            _search(World(crash=crash), tmp_path / str(number), quiet)


def test_fewer_threads_can_be_faster(tmp_path: Path, quiet: Progress) -> None:
    class Busy(World):
        def _look(self, candidate: Candidate) -> Result:
            look = super()._look(msgspec.structs.replace(candidate, threads=2))
            return msgspec.structs.replace(look, together=look.together / candidate.threads)

    assert _search(Busy(), tmp_path, quiet).exact.candidate.threads == 1


def test_a_close_call_is_measured_again(tmp_path: Path, quiet: Progress) -> None:
    class Noisy(World):
        def __call__(self, job: TuningJob) -> Result:
            result = super().__call__(job)
            if job.kind == "speed" and job.candidate.weights == "Q6_K" and job.round == 0:
                return msgspec.structs.replace(result, together=result.together * 0.7)
            return result

    world = Noisy(speed={"Q6_K": 1.6})
    assert _search(world, tmp_path, quiet).exact.candidate.weights == "Q6_K"
    assert any(job.round < 0 for job in world.asked)


def test_interrupted_anywhere_it_goes_on_where_it_was(tmp_path: Path, quiet: Progress) -> None:
    whole = World()
    _search(whole, tmp_path / "whole", quiet)
    keys = [job.key for job in whole.asked if job.kind != "drop"]
    for cut in range(0, len(keys), 3):
        world, home = World(), tmp_path / str(cut)

        def until(job: TuningJob, world: World = world, cut: int = cut) -> Result:
            if sum(asked.kind != "drop" for asked in world.asked) == cut and job.kind != "drop":
                raise KeyboardInterrupt
            return world(job)

        with pytest.raises(KeyboardInterrupt):
            _search(until, home, quiet)
        search = _search(world, home, quiet)
        assert [job.key for job in world.asked if job.kind != "drop"] == keys
        assert search.exact.candidate.weights == "Q8_0"
    again = World()
    _search(again, tmp_path / "whole", quiet)
    assert all(job.kind == "drop" for job in again.asked)


@pytest.mark.parametrize("content", [b"", b"{", b'{"results": []}', b'{"version": "0"}', b"\xff"])
def test_a_broken_journal_is_begun_anew(tmp_path: Path, quiet: Progress, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    journal = tune.Journal(path)
    assert journal.damaged and len(journal) == 0
    tune.tune(WISH, journal, World(), quiet)
    assert not tune.Journal(path).damaged and len(tune.Journal(path)) == len(journal) > 10


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_it_with_what_to_do(
    tmp_path: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_cache, "write", _full)
    with pytest.raises(tune.TuneError, match="No space left") as error:
        _search(World(), tmp_path, quiet)
    assert "XDG_CACHE_HOME" in error.value.hint


def test_no_room_for_a_copy_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tune.JobRunner(tmp_path / "model.gguf", tmp_path / "home", tmp_path, 8)
    monkeypatch.setattr(tune, "run_apart", lambda order: Result(failed="no room: for a copy"))
    with pytest.raises(tune.TuneError, match="for a copy"):
        bench.do(TuningJob(kind="copy", candidate=Candidate("Q8_0", RUNGS[0], 2)))


def test_a_copy_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aios.hw.tuning import requantise

    def half(source: Path, part: Path, *_: object) -> None:
        part.write_bytes(b"half")
        _full()

    source, copy = tmp_path / "model.gguf", tmp_path / "home" / "Q8_0.gguf"
    source.write_bytes(b"GGUF")
    monkeypatch.setattr(requantise, "_quantise", half)
    with pytest.raises(OSError, match="No space left"):
        requantise.requantise(source, copy, FORMATS["Q8_0"], 1)
    assert list(copy.parent.iterdir()) == []


def test_a_child_that_cannot_load_says_why(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"no model")
    bench = tune.JobRunner(source, tmp_path / "home", tmp_path, 2)
    result = bench.do(TuningJob(kind="speed", candidate=Candidate(ORIGINAL, RUNGS[0], 1)))
    assert "no GGUF model" in result.failed


# ---------------------------------------------------------------------- the profile


def _gguf(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") * 2
    path.write_bytes(head + content)
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


def test_what_was_asked_for_wins(tuned: tuple[EngineSettings, Path]) -> None:
    settings, home = tuned
    found, _ = profile.look_up(settings, "build", "CPU")
    assert found
    applied = profile.apply(settings, found)
    assert (applied.threads, applied.ubatch_tokens) == (3, 256)
    assert applied.path == str(profile.copy_path(home, "Q8_0"))
    asked = profile.apply(msgspec.structs.replace(settings, threads=1), found)
    assert asked.threads == 1


def test_a_core_that_replaces_another_uses_the_same(tuned: tuple[EngineSettings, Path]) -> None:
    settings, home = tuned
    before, _ = profile.look_up(settings, "build", "CPU")
    profile.profile_path(home, "build", "CPU").unlink()
    assert _found(settings, tuned=before, look_up_tuned=False) == ("Q8_0", "")
    profile.copy_path(home, "Q8_0").unlink()
    weights, problem = _found(settings, tuned=before, look_up_tuned=False)
    assert not weights and "missing" in problem and "aios model tune" in problem


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"version": 99, "entries": []}'])
def test_a_broken_profile_is_told(tuned: tuple[EngineSettings, Path], content: bytes) -> None:
    settings, home = tuned
    profile.profile_path(home, "build", "CPU").write_bytes(content)
    weights, problem = _found(settings)
    assert not weights and "cannot be read" in problem


def test_another_file_in_the_copys_place_is_told(tuned: tuple[EngineSettings, Path]) -> None:
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


def test_one_tuning_at_a_time(tmp_path: Path) -> None:
    with (
        tune.alone(tmp_path / "home"),
        pytest.raises(tune.TuneError, match="already"),
        tune.alone(tmp_path / "home"),
    ):
        pass


# ---------------------------------------------------------------------- small parts


def test_the_score_is_the_rate_of_a_turn() -> None:
    look = Result(prefill=128.0, alone=1.0, together=64.0)
    assert score(look) == pytest.approx((128 + 64) / 2)
    assert score(Result(failed="crashed")) == 0


def test_perplexity_compares_window_by_window() -> None:
    assert perplexity.worse_percent([-10.0], [-10.0, -20.0], [5]) == 0
    assert perplexity.worse_percent([-11.0], [-10.0, -20.0], [5]) == pytest.approx(22.14, abs=0.01)
    assert perplexity.perplexity([-10.0, -10.0], [10, 10]) == pytest.approx(2.71828, abs=1e-4)
    assert perplexity.perplexity([-1e9], [1]) == float("inf")
    assert 5_000 < len(perplexity.text()) < 20_000


def test_the_report_can_be_shown(
    tmp_path: Path, quiet: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report.of("model", 8, 1.0, _search(World(), tmp_path, quiet), 1.0)
    show(report, False)
    shown = capsys.readouterr().out
    assert "Q8_0" in shown and "1.50 times" in shown and "predicts worse" in shown
    show(report, True)
    document = msgspec.json.decode(capsys.readouterr().out, type=Report)
    assert document.chosen and document.chosen.weights == "Q8_0"


def test_candidates_have_names_of_their_own() -> None:
    rungs = [*RUNGS, Rung("f16", kv_type="f16")]
    labels = {
        Candidate(weights, rung, threads, ubatch).label
        for weights in FORMATS for rung in rungs for threads in (1, 2) for ubatch in (128, 512)
    }  # fmt: skip
    assert len(labels) == len(FORMATS) * len(rungs) * 4
