"""A core that hangs is noticed by its silence, and replaced like one that died."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from aios.hw.core import core
from aios.hw.core.messages import Command, Event, StepRow, Yield
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.states import IllegalTransition
from aios.kernel.model.core_life import Core, CoreLife
from aios.kernel.model.watchdog import Watchdog
from aios.syscalls.errors import ModelUnavailable
from tests.kernel.clock import FakeClock, next_timer
from tests.kernel.rig import Rig, open_rig
from tests.waiting import wait_until

QUIET_S = 30.0


def _let_pass(rig: Rig, until: Callable[[], bool]) -> None:
    """Let time pass while the core does nothing."""

    def turn() -> None:
        if not next_timer(rig.loop, rig.clock):
            rig.loop.turn(1)

    wait_until(until, "the watchdog", turn)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_core_that_hangs_is_replaced_and_the_request_continues(
    tmp_path: Path, steps: int
) -> None:
    with open_rig(tmp_path, chunk=4, core_timeout_s=QUIET_S) as rig:
        request = rig.ask("a story", tokens=200)
        for _ in range(steps):
            rig.step()
        _let_pass(rig, lambda: len(rig.cores) == 2)
        assert not rig.cores[0].alive
        rig.wait(lambda: request.id in rig.outcomes)
        assert rig.reply(request).tokens == rig.alone(request)
        assert rig.model.core.restarts == 1


def test_a_request_that_hangs_every_core_fails_with_the_reason(tmp_path: Path) -> None:
    with open_rig(tmp_path, chunk=4, core_timeout_s=QUIET_S) as rig:
        request = rig.ask("a story")
        _let_pass(rig, lambda: request.id in rig.outcomes)
        error = rig.outcomes[request.id]
        assert isinstance(error, ModelUnavailable)
        assert "(it hung: it said nothing for " in str(error)


def test_a_core_without_work_may_be_silent(tmp_path: Path) -> None:
    with open_rig(tmp_path, chunk=4, core_timeout_s=QUIET_S) as rig:
        request = rig.ask("a story")
        rig.run()
        rig.clock.advance(2 * rig.model._patience_s())
        rig.loop.turn(0)
        assert rig.reply(request) and len(rig.cores) == 1 and rig.core.alive


def test_nothing_is_watched_when_the_timeout_is_0(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        rig.ask("a story")
        rig.step()
        assert not rig.loop._timers
        rig.run()


def test_a_core_shows_life_while_it_computes_a_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "SIGN_OF_LIFE_S", 0.0)
    with open_rig(tmp_path, chunk=4) as rig:
        empty: list[bool] = []
        on_step = rig.model.scheduler.on_step

        def seen(rows: list[StepRow], now: float) -> Any:
            empty.append(not rows)
            return on_step(rows, now)

        rig.model.scheduler.on_step = seen  # type: ignore[method-assign]
        request = rig.ask("a rather long story " * 5)
        rig.run()
        assert sum(empty) >= 5
        assert rig.reply(request).tokens == rig.alone(request)


class _Scene:
    """A watchdog with a patience of 10 s, and how long each hang lasted."""

    def __init__(self) -> None:
        self.clock, self.hung = FakeClock(), list[float]()
        self.loop = Loop(self.clock)
        self.dog = Watchdog(self.loop, lambda: 10.0, self.hung.append)

    def pass_time(self, seconds: int) -> None:
        """Let time pass, second by second."""
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.loop.turn(0)


@pytest.fixture
def scene() -> Iterator[_Scene]:
    made = _Scene()
    yield made
    made.loop.close()


def test_silence_is_counted_from_the_last_event(scene: _Scene) -> None:
    scene.dog.begin()
    scene.pass_time(6)
    scene.dog.heard()
    scene.dog.begin()  # more work changes nothing
    scene.pass_time(9)
    assert scene.hung == []
    scene.pass_time(1)
    assert scene.hung == [10.0]
    scene.dog.begin()
    scene.dog.rest()
    scene.pass_time(100)
    scene.dog.begin()
    scene.pass_time(9)
    assert scene.hung == [10.0]
    scene.pass_time(1)
    assert scene.hung == [10.0, 10.0]


def test_time_in_which_the_machine_slept_does_not_count(scene: _Scene) -> None:
    scene.dog.begin()
    scene.clock.advance(3610)
    scene.loop.turn(0)
    assert scene.hung == []
    scene.pass_time(10)
    assert scene.hung == [10.0]


def test_a_core_that_has_died_is_no_longer_watched() -> None:
    loop, deaths = Loop(), list[str]()

    class Dying:
        """Dies when it is sent something; the news comes as an event of the loop."""

        os_pid = 1

        def __init__(self, on_event: Callable[[Event], None], on_gone: Callable[[], None]) -> None:
            self._on_gone = on_gone

        def send(self, command: Command) -> None:
            loop.after(0, self._on_gone)

        def kill(self) -> None:
            raise AssertionError("it is dead")

        def end(self) -> str:
            return "signal 9"

    life = CoreLife(
        "m", loop, Dying, lambda: True, works=lambda: True, patience_s=lambda: QUIET_S,
        on_event=lambda event: None, on_death=deaths.append, on_failure=lambda error: None,
    )  # fmt: skip
    life.load()
    life.ready()
    life.send(Yield(1))
    assert life._watchdog._timer
    loop.turn(0)
    assert deaths == ["signal 9"] and life.state == "restarting"
    assert life._watchdog._timer is None
    life.end()
    loop.close()


def test_no_core_goes_to_a_state_that_the_table_does_not_allow() -> None:
    loop = Loop()
    life = CoreLife(
        "m", loop, lambda *_: cast(Core, None), lambda: True, works=lambda: False,
        patience_s=lambda: 0.0, on_event=lambda event: None, on_death=lambda how: None,
        on_failure=lambda error: None,
    )  # fmt: skip
    with pytest.raises(IllegalTransition, match="core of m: unloaded → ready"):
        life.ready()
    assert life.state == "unloaded"
    loop.close()
