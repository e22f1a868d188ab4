"""The launcher with real zygotes: when they end, and orders that wait for a replacement."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from aios.kernel import children
from aios.kernel.loop.clock import Clock
from aios.kernel.loop.loop import Loop
from aios.kernel.process.launcher import IDLE_S, Launcher
from aios.syscalls.launch import Exited, Fork, Forked, Report, Signal, interpreter
from tests import environments
from tests.conftest import IDLE, TIMEOUT_S


class Ahead(Clock):
    """The host's clock, advanced by the test."""

    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


class World:
    """A launcher and its reports."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Ahead()
        self.loop = Loop(self.clock)
        self.reports: list[Report] = []
        self.lost: list[Collection[int]] = []
        self.launcher = Launcher(
            self.loop, lambda python, theirs: children.start_zygote(python, theirs, folder),
            self.reports.append, self.lost.append,
        )  # fmt: skip
        self.launcher.open()
        self.pids = 0

    def fork(self, python: str, code: str, args: Sequence[str] = ()) -> int:
        """Order an agent; return its pid."""
        self.pids += 1
        path, out = self.folder / f"{self.pids}.py", str(self.folder / f"{self.pids}.out")
        path.write_text(code)
        self.launcher.fork(python, Fork(
            pid=self.pids, user="1", secret="s", name="a", path=str(path), args=list(args),
            cwd=str(self.folder), env={}, stdin=None, stdout=out, stderr=out, log=out,
        ))  # fmt: skip
        return self.pids

    def until(self, true: Callable[[], object]) -> None:
        """Turn the loop until a condition holds."""
        end = time.monotonic() + TIMEOUT_S
        while not true():
            assert time.monotonic() < end
            self.loop.turn(100)

    def told(self, kind: type[Report], pid: int) -> bool:
        return any(isinstance(report, kind) and report.pid == pid for report in self.reports)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.launcher.close()
    made.loop.close()
    assert not psutil.Process().children()


@pytest.fixture
def python(tmp_path: Path) -> str:
    """The interpreter of another environment."""
    return interpreter(str(environments.make(tmp_path / "other")), sys.version_info[:2])


def test_the_zygote_of_another_environment_ends_when_it_is_idle(world: World, python: str) -> None:
    (own,) = world.launcher.os_pids()
    idle = world.fork(python, IDLE)
    short = world.fork(python, "")
    world.until(lambda: world.told(Exited, short))
    world.clock.ahead_s += 2 * IDLE_S
    world.loop.turn(0)
    assert len(world.launcher.os_pids()) == 2, "it has an agent"
    world.launcher.signal(Signal(idle, 9, True))
    world.until(lambda: world.told(Exited, idle))
    world.clock.ahead_s += 0.9 * IDLE_S
    short = world.fork(python, "")
    world.until(lambda: world.told(Exited, short))
    world.clock.ahead_s += 0.9 * IDLE_S
    world.loop.turn(0)
    assert len(world.launcher.os_pids()) == 2, "it was used meanwhile"
    world.clock.ahead_s += 0.2 * IDLE_S
    world.loop.turn(0)
    assert world.launcher.os_pids() == {own}
    short = world.fork(python, "")
    world.until(lambda: world.told(Exited, short))
    assert world.lost == []


def test_the_path_of_the_kernels_interpreter_means_the_kernels_own_zygote(world: World) -> None:
    name = interpreter(sys.executable, sys.version_info[:2])
    assert name != sys.executable or "python3." in sys.executable
    short = world.fork(name, "")
    world.until(lambda: world.told(Exited, short))
    assert len(world.launcher.os_pids()) == 1


def test_orders_wait_for_a_zygote_that_is_replaced(world: World, python: str) -> None:
    victims = {world.fork("", IDLE), world.fork("", IDLE)}
    other = world.fork(python, IDLE)
    world.until(lambda: all(world.told(Forked, pid) for pid in (*victims, other)))
    own = next(z for z in psutil.Process().children() if "-E" not in z.cmdline())
    own.kill()
    world.until(lambda: world.lost)
    assert set(world.lost[0]) == victims
    waiting, killed = world.fork("", IDLE), world.fork("", IDLE)
    world.launcher.signal(Signal(killed, 9, True))
    world.until(lambda: world.told(Forked, waiting) and world.told(Exited, killed))
    assert not world.told(Exited, waiting) and not world.told(Exited, other)


def test_oversized_orders_and_missing_interpreters_are_rejected(
    world: World,
) -> None:
    with pytest.raises(FileNotFoundError):
        world.fork("/nowhere/python", "")
    with pytest.raises(ValueError, match="the limit is"):
        world.fork("", "", args=["x" * (1 << 20)])
    short = world.fork("", "")
    world.until(lambda: world.told(Exited, short))


def test_an_interpreter_has_one_name(tmp_path: Path) -> None:
    folder = environments.make(tmp_path / "environment").parent
    version = sys.version_info[:2]
    full = str(folder / f"python{version[0]}.{version[1]}")
    (tmp_path / "link").symlink_to(folder)
    for path in (folder / "python", folder / "python3", full, tmp_path / "link" / "python"):
        assert interpreter(str(path), version) == full
    assert interpreter("/bin/true", (3, 12)) == f"{Path('/bin').resolve()}/true"
