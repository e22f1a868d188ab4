"""The gate: limits, locks, order, and turns."""

from __future__ import annotations

import random

import pytest

from aios.kernel.tools.gate import Gate, Ticket


class Scene:
    """Tickets by name, and the order in which they began."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.began: list[str] = []
        self.tickets: dict[str, Ticket] = {}

    def enter(self, name: str, pid: int, tool: str = "t", limit: int = 1, lock: str = "") -> None:
        """Queue a ticket under a name."""
        ticket = Ticket(pid, tool, limit, lock)
        ticket.turn.then(lambda _: self.began.append(name))
        self.tickets[name] = ticket
        self.gate.enter(ticket)

    def leave(self, name: str) -> None:
        """Remove a ticket, and check the gate."""
        self.gate.leave(self.tickets[name])
        assert self.gate.check() == []


def test_calls_over_the_limit_run_later_in_order() -> None:
    scene = Scene()
    for number in range(5):
        scene.enter(str(number), pid=number, limit=2)
    assert scene.began == ["0", "1"] and scene.gate.waiting("t") == 3
    scene.leave("1")
    scene.leave("0")
    assert scene.began == ["0", "1", "2", "3"]


def test_a_lock_is_held_by_one_call_across_tools() -> None:
    scene = Scene()
    scene.enter("a", 1, "read", 9, "disk")
    scene.enter("b", 2, "write", 9, "disk")
    scene.enter("c", 3, "other", 9)
    assert scene.began == ["a", "c"] and scene.gate.waits_of(2) == ["write (pid 1 uses it)"]
    scene.leave("a")
    assert scene.began == ["a", "c", "b"] and scene.gate.waits_of(2) == []


def test_an_agent_with_many_calls_takes_turns_with_others() -> None:
    scene = Scene()
    for number in range(500):
        scene.enter(f"a{number}", 1)
    scene.enter("b0", 2)
    scene.leave("a0")
    scene.leave("a1")  # it was queued before b0
    assert scene.began == ["a0", "a1", "b0"]


def test_leaving_early_or_twice_changes_nothing_else() -> None:
    scene = Scene()
    for name in "abc":
        scene.enter(name, 1, lock="l")
    for _ in range(2):
        scene.leave("b")
    scene.leave("a")
    assert scene.began == ["a", "c"]


def test_a_call_may_end_when_it_begins() -> None:
    gate = Gate()
    tickets: list[Ticket] = []

    def enter(number: int) -> None:
        ticket = Ticket(1, "t", 1, "")
        ticket.turn.then(lambda _: gate.leave(tickets[number]))
        tickets.append(ticket)
        gate.enter(ticket)

    for number in range(3000):
        enter(number)
    assert gate.check() == [] and gate.running("t") == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_calls_never_exceed_a_limit_and_all_run(seed: int) -> None:
    rng = random.Random(seed)
    scene, entered, left = Scene(), 0, set[str]()
    while len(left) < 300:
        running = [n for n, t in scene.tickets.items() if t.running]
        if entered < 300 and rng.random() < 0.6:
            tool = rng.choice("xyz")
            lock = rng.choice(["", "", "l"]) if tool != "z" else "l"
            scene.enter(str(entered), rng.randrange(4), tool, {"x": 1, "y": 3, "z": 2}[tool], lock)
            entered += 1
        elif running:
            name = rng.choice(running)
            left.add(name)
            scene.leave(name)
        now = [t for t in scene.tickets.values() if t.running]
        assert sum(t.tool == "x" for t in now) <= 1 and sum(t.tool == "y" for t in now) <= 3
        assert sum(t.lock == "l" for t in now) <= 1
    assert len(scene.began) == 300
