"""The search for faster settings in idle time: which rungs are tested, and what is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from aios.hw.engine.engine import EngineSettings, LoadError, Rung
from aios.hw.models import model_files
from aios.hw.tuning import idle_work, profile
from aios.hw.tuning.candidate import ORIGINAL, Candidate, Result
from aios.hw.tuning.exact_settings import RUNGS, SAFE, UNTESTED, plan
from aios.hw.tuning.idle_messages import Order
from aios.hw.tuning.idle_work import find_settings
from aios.hw.tuning.job_process import MACHINE_BUSY, Killed
from aios.hw.tuning.job_process import Order as JobOrder
from aios.hw.tuning.step_times import StepTimes, step_times
from aios.hw.tuning.tune import alone
from aios.hw.tuning.verdict_cache import subject_of, verdict
from tests.hw.models.gguf_maker import write


class Jobs:
    """Stands for run_apart: gives made-up results by rung and notes what was asked."""

    def __init__(self, **results: Result | Exception) -> None:
        """``r0=Result(exact=True)``: the outcome for the first rung; others are not exact."""
        self._results = results
        self.failed = ""
        self.tested: list[Rung] = []
        self.timed: list[Rung] = []

    def __call__(self, order: JobOrder) -> Result:
        rung = order.job.candidate.rung
        if order.job.kind == "steps":
            self.timed.append(rung)
            return self._steps(order)
        self.tested.append(rung)
        known = RUNGS.index(rung) if rung in RUNGS else 9
        outcome = self._results.get(f"r{known}", Result())
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _steps(self, order: JobOrder) -> Result:
        if self.failed:
            return Result(failed=self.failed)
        settings = EngineSettings(path=order.path, threads=order.job.candidate.threads)
        found = step_times(
            order.cache_dir, subject_of(settings), order.job.candidate.rung, order.seats,
            order.counts,
        )  # fmt: skip
        found.keep(StepTimes(1, 0.1, 0.1, 0.1))
        return Result()


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    path = tmp_path / "model.gguf"
    write(path)
    return EngineSettings(path=str(path), seats=2, cache_dir=str(tmp_path / "cache"))


def _with(monkeypatch: pytest.MonkeyPatch, jobs: Jobs) -> Jobs:
    monkeypatch.setattr(idle_work, "run_apart", jobs)
    return jobs


@pytest.mark.parametrize("fine", [*range(len(RUNGS)), None])
def test_rungs_are_tested_until_one_passes(
    fine: int | None, settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = _with(monkeypatch, Jobs(**{f"r{fine}": Result(exact=True)}))
    said: list[tuple[str, int]] = []
    for _ in range(2):  # the second time from the cache
        chosen = find_settings(settings, lambda text, percent: said.append((text, percent)))
        assert chosen.rung == (SAFE if fine is None else RUNGS[fine])
        assert chosen.exact == (fine is not None) and chosen.untested == 0
    assert jobs.tested == list(RUNGS if fine is None else RUNGS[: fine + 1])
    assert jobs.timed == [chosen.rung]
    assert said[0] == (f"self-test 1/{len(RUNGS)}: {RUNGS[0].name}", 0)
    assert [percent for _, percent in said] == sorted(percent for _, percent in said)


def test_a_crash_rejects_the_rung_and_is_kept(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = Result(crashed=True, failed="llama.cpp crashed (signal 11)")
    jobs = _with(monkeypatch, Jobs(r0=crash, r1=Result(exact=True)))
    chosen = find_settings(settings)
    assert chosen.rung == RUNGS[1] and len(jobs.tested) == 2
    kept = verdict(settings.cache_dir, chosen.subject, RUNGS[0]).value
    assert kept and not kept.exact and "signal 11" in kept.reason


def test_a_kill_and_a_failed_load_say_nothing_about_a_rung(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with(monkeypatch, Jobs(r0=Result(failed="no memory"), r1=Killed("it was killed (signal 9)")))
    with pytest.raises(Killed):
        find_settings(settings)
    chosen = plan(settings)
    assert chosen.rung == SAFE and chosen.untested == len(RUNGS)
    jobs = _with(monkeypatch, Jobs(r0=Result(exact=True)))
    assert find_settings(settings).rung == RUNGS[0] and jobs.tested == [RUNGS[0]]


def test_without_exactness_speed_is_measured_once(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = msgspec.structs.replace(settings, exact=False)
    fast, slow = (Result(prefill=100.0, together=rate) for rate in (20.0, 10.0))
    jobs = _with(monkeypatch, Jobs(r0=slow, r1=fast, r9=slow))
    for _ in range(2):
        assert find_settings(settings).rung == RUNGS[1]
    assert jobs.tested == list(UNTESTED)


def test_the_core_is_told_if_it_would_be_faster_now(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with(monkeypatch, Jobs(r0=Result(exact=True)))
    subject = plan(settings).subject
    order = Order("settings", settings, SAFE, subject.model_hash)
    done = idle_work._do(order, lambda text, percent: None)
    assert done.better and done.text == RUNGS[0].name and done.again
    fast = msgspec.structs.replace(order, rung=RUNGS[0])
    assert not idle_work._do(fast, lambda text, percent: None).better


def test_settings_that_cannot_be_tested_are_an_error(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Result(failed="no memory")
    _with(monkeypatch, Jobs(**{f"r{number}": failed for number in range(len(RUNGS))}))
    order = Order("settings", settings, SAFE, plan(settings).subject.model_hash)
    with pytest.raises(LoadError, match="cannot be tested now: no memory"):
        idle_work._do(order, lambda text, percent: None)


def test_a_busy_machine_is_measured_later(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = _with(monkeypatch, Jobs(r0=Result(exact=True)))
    jobs.failed = MACHINE_BUSY
    hash_ = plan(settings).subject.model_hash
    order = Order("settings", settings, RUNGS[0], hash_, estimated=True)
    done = idle_work._do(order, lambda text, percent: None)
    assert done.again and not done.better
    jobs.failed = ""
    done = idle_work._do(order, lambda text, percent: None)
    assert done.better and not done.again
    assert jobs.tested == [RUNGS[0]] and jobs.timed == [RUNGS[0]] * 2


def test_steps_that_cannot_be_timed_are_not_tried_again(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = _with(monkeypatch, Jobs(r0=Result(exact=True)))
    jobs.failed = "llama.cpp crashed (signal 11)"
    hash_ = plan(settings).subject.model_hash
    done = idle_work._do(Order("settings", settings, RUNGS[0], hash_), lambda text, percent: None)
    assert not done.better and not done.again


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_cache_that_cannot_be_written_is_an_error(
    exact: bool, known: bool, settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = msgspec.structs.replace(settings, exact=exact)
    jobs = _with(monkeypatch, Jobs(r0=Result(exact=True)))
    if known:
        jobs.failed = MACHINE_BUSY
        find_settings(settings)
        jobs.failed = ""

    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aios.hw.machine.json_cache.write", full)
    now = plan(settings)
    order = Order("settings", settings, now.rung, now.subject.model_hash, estimated=True)
    with pytest.raises(LoadError, match=r"cannot be kept in .*cache"):
        idle_work._do(order, lambda text, percent: None)


def test_a_job_and_its_children_give_way_in_time_and_memory() -> None:
    show = "import os; print(os.nice(0), open('/proc/self/oom_score_adj').read())"
    code = (
        "import subprocess, sys; from aios.hw.tuning import idle_work; idle_work._calm(); "
        f'subprocess.run([sys.executable, "-c", "{show}"], check=True)'
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert out.stdout.split() == ["19", "1000"]


def test_what_the_user_has_tuned_is_not_tuned_again(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with(monkeypatch, Jobs(r1=Result(exact=True)))
    subject = plan(settings).subject
    cache, source = Path(settings.cache_dir or ""), Path(settings.path)
    home = profile.folder(cache, subject.model_hash)
    order = Order("tune", settings, SAFE, subject.model_hash)
    with alone(home):
        done = idle_work._do(order, lambda text, percent: None)
    assert done.again and not done.better
    choice = profile.Choice(
        candidate=Candidate(ORIGINAL, RUNGS[1], 1), copy_hash=model_files.model_hash(source),
        mix_tokens_per_s=2.0, over_original=2.0, worse_percent=0.0,
    )  # fmt: skip
    entry = profile.Entry(seats=settings.seats, exact=choice, fastest=choice)
    profile.add(home, subject.build, subject.device, entry)
    done = idle_work._do(order, lambda text, percent: None)
    assert done.better and done.text == RUNGS[1].name
    assert profile.read(home, subject.build, subject.device) == profile.Profile(
        version=profile.VERSION, entries=[entry]
    )
