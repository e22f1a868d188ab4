"""Idle jobs: when they run, when they are stopped, and what their findings change."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aios.hw.engine.engine import EngineInfo
from aios.hw.tuning.idle_messages import Done, Failed, Progress
from aios.kernel.model.idle_jobs import AGAIN_S, IDLE_S, MAX_PAUSE_S
from tests.kernel.clock import next_timer
from tests.kernel.rig import Rig, open_rig


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios.kernel.model.models.JOB_BYTES", 0)


def _untested(rig: Rig, count: int = 3) -> None:
    """Load the model, and have its core say that rungs are to be tested."""
    rig.ask("x", tokens=1)
    rig.run()
    rig.model.info = _info(rig, count)


def _info(rig: Rig, count: int) -> EngineInfo:
    assert rig.model.info
    return msgspec.structs.replace(rig.model.info, untested=count)


def _pass(rig: Rig, seconds: float) -> None:
    """Let time pass; what becomes due is done."""
    rig.clock.advance(seconds)
    rig.run()


def _doing(rig: Rig) -> str:
    return rig.models.jobs.describe(rig.model)


def test_a_job_begins_when_all_has_been_quiet(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        assert _doing(rig) == "self-test when idle"
        _pass(rig, IDLE_S / 2)
        assert rig.jobs == []
        _pass(rig, IDLE_S)
        (job,) = rig.jobs
        assert job.kind == "settings" and job.model is rig.model
        job.on_event(Progress("self-test 2/5: some settings", 20))
        assert _doing(rig) == "self-test 2/5: some settings (20 %)"
        assert rig.models.jobs.os_pid == job.os_pid


def test_a_tested_model_gets_no_job(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig, 0)
        _pass(rig, 10 * IDLE_S)
        assert rig.jobs == [] and _doing(rig) == ""


def test_a_request_stops_the_job_until_all_is_quiet_again(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        (job,) = rig.jobs
        job.on_event(Progress("self-test 1/5", 0))
        request = rig.ask("x", tokens=5)
        assert job.state == "paused" and "paused" in _doing(rig)
        rig.run()
        assert rig.reply(request) and job.state == "paused"
        rig.ask("x", tokens=5)  # a second one while it is paused
        rig.run()
        _pass(rig, IDLE_S)
        assert job.state == "runs" and rig.jobs == [job]


def test_a_job_that_has_said_nothing_is_ended_and_not_paused(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        for number in range(2):
            _untested(rig)
            _pass(rig, IDLE_S)
            assert len(rig.jobs) == number + 1
            rig.ask("x", tokens=5)
            assert rig.jobs[number].state == "ended"
            rig.run()


def test_a_long_pause_ends_the_job(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        (job,) = rig.jobs
        job.on_event(Progress("self-test 1/5", 0))
        request = rig.ask("x", tokens=5)
        rig.models.hold(request)
        rig.run()
        rig.models.hold(request)
        _pass(rig, MAX_PAUSE_S)
        assert job.state == "ended" and _doing(rig) == "self-test when idle"
        rig.models.unhold(request)
        rig.run()
        _pass(rig, IDLE_S)
        assert len(rig.jobs) == 2


@pytest.mark.parametrize("quiet_s", [0.0, IDLE_S / 2])
def test_a_long_pause_ends_the_job_however_many_requests_come(
    tmp_path: Path, quiet_s: float
) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        (job,) = rig.jobs
        job.on_event(Progress("self-test 1/5", 0))
        for _ in range(3):
            request = rig.ask("x", tokens=5)
            rig.ask("y", tokens=5)
            rig.run()
            assert rig.reply(request)
            _pass(rig, quiet_s)
        rig.ask("x", tokens=5)
        _pass(rig, MAX_PAUSE_S)
        assert job.state == "ended"


def test_better_settings_are_used_when_nothing_is_under_way(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        (job,) = rig.jobs
        job.on_event(Progress("self-test 1/5", 0))
        running = rig.ask("x", tokens=8)
        job.on_event(Done(True, "faster"))
        assert job.state == "ended" and rig.models.jobs.os_pid == 0
        core = rig.core
        rig.run()
        assert rig.reply(running) and rig.core is core and "loaded again" in _doing(rig)
        _pass(rig, IDLE_S)
        assert rig.core is not core and not core.alive and rig.model.state == "ready"
        assert rig.model.core.restarts == 0
        after = rig.ask("x", tokens=3)
        rig.run()
        assert rig.reply(after)


def test_a_request_that_arrives_during_the_exchange_waits_for_it(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        rig.jobs[0].on_event(Done(True, "faster"))
        rig.clock.advance(IDLE_S)
        rig.loop.turn(0)
        assert rig.model.state == "loading"
        request = rig.ask("x", tokens=3)
        rig.run()
        assert rig.reply(request)


def test_no_better_settings_change_nothing(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        rig.jobs[0].on_event(Done(False, "one at a time"))
        _pass(rig, 10 * IDLE_S)
        assert len(rig.cores) == 1 == len(rig.jobs) and _doing(rig) == ""


def test_a_failure_is_shown_and_not_repeated(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        rig.jobs[0].on_event(Failed("the file is gone"))
        _pass(rig, 10 * IDLE_S)
        assert len(rig.jobs) == 1
        assert "the file is gone" in _doing(rig) and "aios model tune" in _doing(rig)


def test_a_job_that_dies_is_begun_once_more(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        rig.jobs[0].on_gone()
        assert _doing(rig) == "self-test when idle"
        _pass(rig, IDLE_S)
        rig.jobs[1].on_gone()
        _pass(rig, 10 * IDLE_S)
        assert len(rig.jobs) == 2 and "signal 11" in _doing(rig)


def test_a_core_that_is_loaded_ends_the_job(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        rig.core.kill()
        rig.run()
        assert rig.jobs[0].state == "ended" and len(rig.cores) == 2


def test_a_model_that_was_unloaded_is_not_brought_back_by_a_job(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        rig.models.unload(rig.model)
        assert rig.jobs[0].state == "ended"
        rig.ask("x", "fake:end=1", tokens=1)
        rig.run()
        _pass(rig, IDLE_S)
        assert len(rig.jobs) == 1
        rig.ask("x", tokens=1)
        rig.run()
        rig.model.info = _info(rig, 3)
        _pass(rig, IDLE_S)
        assert len(rig.jobs) == 2


def test_a_job_without_memory_waits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios.kernel.model.models.JOB_BYTES", 1 << 50)
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        assert rig.jobs == [] and "MiB of memory" in _doing(rig)
        monkeypatch.setattr("aios.kernel.model.models.JOB_BYTES", 0)
        assert next_timer(rig.loop, rig.clock)
        rig.run()
        assert len(rig.jobs) == 1


def test_the_memory_budget_counts_for_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios.kernel.model.models.JOB_BYTES", 1 << 20)
    with open_rig(tmp_path, memory=1 << 20) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        assert rig.jobs == [] and "--memory" in _doing(rig)


def test_closing_ends_the_job(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        (job,) = rig.jobs
    assert job.state == "ended"


def test_what_could_not_be_measured_is_tried_again_later(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _untested(rig)
        _pass(rig, IDLE_S)
        rig.jobs[0].on_event(Done(False, "busy", again=True))
        _pass(rig, 2 * IDLE_S)
        assert len(rig.jobs) == 1
        _pass(rig, AGAIN_S)
        _pass(rig, IDLE_S)
        assert len(rig.jobs) == 2
