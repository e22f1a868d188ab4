"""Tuning: the search with made-up results, its journal, and its errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from aios.hw.engine.engine import Rung
from aios.hw.machine import json_cache
from aios.hw.tuning import perplexity, tune
from aios.hw.tuning.candidate import (
    FORMATS,
    ORIGINAL,
    Candidate,
    Result,
    TuningJob,
    score,
)
from aios.hw.tuning.exact_settings import RUNGS, SAFE
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
            return self._speed(job.candidate)
        if job.kind == "perplexity":
            loss = 300 * self.worse.get(weights, 0.0) / 100
            return Result(windows=tuple(w - loss for w in TEXT), tokens=(300, 300))
        if job.kind == "exact":
            rung = job.candidate.rung
            return Result(exact=rung in RUNGS and RUNGS.index(rung) >= self.inexact.get(weights, 0))
        return Result(size_bytes=1)

    def _speed(self, candidate: Candidate) -> Result:
        speed = self.speed.get(candidate.weights, 0.8)
        speed *= {"q8_0": 0.9, "f16": 0.8}.get(candidate.rung.kv_type, 1.0)
        speed *= 1.0 if candidate.threads == 2 else 0.6
        speed *= {None: 1.0, 7: 0.9, 3: 0.7, 1: 0.4}[candidate.rung.width]
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
    search = Search(wish)
    tune.tune(search, tune.Journal(tmp_path / "home" / "results.json"), world, quiet)
    return search


def test_the_fastest_exact_and_predictive_candidate_wins(tmp_path: Path, quiet: Progress) -> None:
    search = _search(World(), tmp_path, quiet)
    assert search.exact.candidate == Candidate("Q8_0", RUNGS[0], 2)
    assert search.fastest is search.exact
    notes = {trial.candidate.weights: trial.note for trial in search.trials}
    assert notes["Q4_0"] == "predicts worse" and notes["Q6_K"] == "slower"
    assert search.exact.score / search.baseline.score == pytest.approx(1.5)


def test_a_larger_limit_admits_more_candidates(tmp_path: Path, quiet: Progress) -> None:
    wish = msgspec.structs.replace(WISH, limit_percent=25.0)
    assert _search(World(), tmp_path, quiet, wish).exact.candidate.weights == "Q4_0"


def test_the_original_stays_if_nothing_is_faster(tmp_path: Path, quiet: Progress) -> None:
    world = World(speed={"Q8_0": 1.01, "Q4_0": 0.9})
    search = _search(world, tmp_path, quiet)
    assert search.exact.candidate == Candidate(ORIGINAL, RUNGS[0], 2)
    assert {job.candidate.weights for job in world.asked if job.kind == "drop"} == set(FORMATS)


def test_an_inexact_candidate_serves_only_exactness_off(tmp_path: Path, quiet: Progress) -> None:
    search = _search(World(worse={"Q4_0": 0.5}, inexact={"Q4_0": len(RUNGS)}), tmp_path, quiet)
    assert search.exact.candidate.weights == "Q8_0" and search.exact.exact
    assert search.fastest.candidate.weights == "Q4_0" and not search.fastest.exact


def test_a_later_rung_is_scored_with_its_own_speed(tmp_path: Path, quiet: Progress) -> None:
    world = World(worse={"Q4_0": 0.5}, inexact={"Q4_0": 1, ORIGINAL: len(RUNGS) - 1})
    search = _search(world, tmp_path, quiet)
    assert search.baseline.candidate == Candidate(ORIGINAL, RUNGS[-1], 2)
    assert search.exact.candidate == Candidate("Q4_0", RUNGS[1], 2)


def test_only_what_passed_the_self_test_is_chosen_as_exact(tmp_path: Path, quiet: Progress) -> None:
    for number, copies in enumerate((0, len(RUNGS))):
        inexact = dict.fromkeys(FORMATS, copies) | {ORIGINAL: len(RUNGS)}
        search = _search(World(inexact=inexact), tmp_path / str(number), quiet)
        assert bool(search.exact.exact) == (copies == 0)
        assert search.exact.candidate.weights == ("Q8_0" if copies == 0 else ORIGINAL)
        assert search.exact.score > 0 and search.baseline.score > 0


def test_an_exact_copy_wins_over_an_original_that_is_not(tmp_path: Path, quiet: Progress) -> None:
    """Even one that is no faster; and a rung that cannot be measured is not exact either."""
    world = World(speed={"Q8_0": 0.99}, inexact={ORIGINAL: len(RUNGS)})
    assert _search(world, tmp_path / "a", quiet).exact.candidate.weights == "Q8_0"

    class Narrow(World):
        def _speed(self, candidate: Candidate) -> Result:
            if candidate.rung == SAFE:
                return Result(failed="llama.cpp crashed (signal 11)")
            return super()._speed(candidate)

    narrow = Narrow(speed={"Q8_0": 0.99}, inexact={ORIGINAL: len(RUNGS)})
    search = _search(narrow, tmp_path / "b", quiet)
    assert search.exact.candidate.weights == "Q8_0" and search.exact.exact
    tested = {job.candidate for job in narrow.asked if job.kind == "exact"}
    assert all(trial.candidate in tested for trial in search.trials if trial.exact)


def test_other_kv_types_keep_the_rest_of_the_rung(tmp_path: Path, quiet: Progress) -> None:
    world = World(inexact=dict.fromkeys((ORIGINAL, *FORMATS), 5))
    search = _search(world, tmp_path, quiet)
    tried = [trial.candidate.rung for trial in search.trials]
    assert search.exact.candidate.rung == RUNGS[5]
    assert any(r.kv_type == "f16" and r.replay and r.width == RUNGS[5].width for r in tried)
    assert len({r.name for r in tried}) == len(set(tried))


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
        def _speed(self, candidate: Candidate) -> Result:
            speed = super()._speed(msgspec.structs.replace(candidate, threads=2))
            return msgspec.structs.replace(speed, together=speed.together / candidate.threads)

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


def test_an_interrupted_search_continues_where_it_was(tmp_path: Path, quiet: Progress) -> None:
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
def test_an_unreadable_journal_is_replaced(tmp_path: Path, quiet: Progress, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    journal = tune.Journal(path)
    assert journal.damaged and len(journal) == 0
    tune.tune(Search(WISH), journal, World(), quiet)
    assert not tune.Journal(path).damaged and len(tune.Journal(path)) == len(journal) > 10


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_an_error_with_a_hint(
    tmp_path: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_cache, "write", _full)
    with pytest.raises(tune.TuneError, match="No space left") as error:
        _search(World(), tmp_path, quiet)
    assert "XDG_CACHE_HOME" in error.value.hint


def test_no_room_for_a_copy_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = tune.JobRunner(tmp_path / "model.gguf", tmp_path / "home", tmp_path, 8)
    monkeypatch.setattr(tune, "run_apart", lambda order: Result(failed="no room: for a copy"))
    with pytest.raises(tune.TuneError, match="for a copy"):
        runner.do(TuningJob(kind="copy", candidate=Candidate("Q8_0", RUNGS[0], 2)))


def test_an_incomplete_copy_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_job_that_cannot_load_gives_the_reason(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"no model")
    runner = tune.JobRunner(source, tmp_path / "home", tmp_path, 2)
    result = runner.do(TuningJob(kind="speed", candidate=Candidate(ORIGINAL, RUNGS[0], 1)))
    assert "no GGUF model" in result.failed


def test_a_model_is_tuned_once_at_a_time(tmp_path: Path) -> None:
    with (
        tune.alone(tmp_path / "home"),
        pytest.raises(tune.TuneError, match="already"),
        tune.alone(tmp_path / "home"),
    ):
        pass


def test_the_score_is_the_rate_of_a_turn() -> None:
    speed = Result(prefill=128.0, alone=1.0, together=64.0)
    assert score(speed) == pytest.approx((128 + 64) / 2)
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


def test_labels_of_candidates_are_unique() -> None:
    rungs = [*RUNGS, Rung("f16", kv_type="f16")]
    labels = {
        Candidate(weights, rung, threads, ubatch).label
        for weights in FORMATS for rung in rungs for threads in (1, 2) for ubatch in (128, 512)
    }  # fmt: skip
    assert len(labels) == len(FORMATS) * len(rungs) * 4
