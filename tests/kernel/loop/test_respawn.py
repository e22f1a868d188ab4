"""The schedule of restarts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.respawn import ROW_S, Respawn
from tests.kernel.clock import FakeClock, next_timer


class Scene:
    """A part on a clock that the test moves, and the times of its restarts."""

    def __init__(self, max_deaths: int = 0) -> None:
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.restarts: list[float] = []
        self.respawn = Respawn(
            self.loop, lambda: self.restarts.append(self.clock.now()), max_deaths
        )

    def die(self) -> float:
        """Die, and wait for the restart; return the pause."""
        died_s = self.clock.now()
        assert self.respawn.died()
        count = len(self.restarts)
        while len(self.restarts) == count:
            assert next_timer(self.loop, self.clock)
            self.loop.turn(0)
        return round(self.restarts[-1] - died_s, 3)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene(max_deaths=6)
    yield made
    made.loop.close()


def test_the_first_restart_is_at_once_and_later_ones_pause(scene: Scene) -> None:
    assert [scene.die() for _ in range(4)] == [0.0, 0.4, 0.8, 1.6]


def test_a_part_that_never_works_is_given_up(scene: Scene) -> None:
    for _ in range(5):
        scene.die()
    assert not scene.respawn.died() and not scene.respawn.waiting


def test_work_and_time_forgive_deaths(scene: Scene) -> None:
    for _ in range(5):
        scene.die()
    scene.respawn.worked()
    assert scene.respawn.died()
    for _ in range(4):
        scene.clock.advance(ROW_S + 1)
        assert scene.die() == 0.0


def test_a_second_death_replaces_the_restart_that_is_due(scene: Scene) -> None:
    scene.respawn.died()
    scene.respawn.died()
    scene.respawn.cancel()
    scene.clock.advance(100)
    scene.loop.turn(0)
    assert scene.restarts == []
