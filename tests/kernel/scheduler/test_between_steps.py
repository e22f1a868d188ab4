"""Commands that reach a core between the steps of a slice, as in a real one.

On the played machine commands otherwise reach a core only between slices.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from aios.hw.chat.conversation import Message
from aios.hw.engine.engine import Logits, Row, Rung
from aios.kernel.loop import respawn
from aios.kernel.scheduler import policy
from aios.kernel.scheduler.account import Account
from aios.kernel.scheduler.request import Request
from aios.syscalls.errors import Cancelled
from tests.kernel.rig import GRID, Died, InlineCore, Rig, open_rig

_ACTS = 250


class _Meddler:
    """Asks, cancels, pauses, renices, changes the policy and kills cores, all at random."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig, self.draw = rig, random.Random(seed)
        self.asked: list[Request] = []
        self.held: list[Request] = []
        self.left, self._kills, self._acting = _ACTS, 10, False
        self._accounts = [Account(n, self.draw.choice((0.5, 1.0, 3.0))) for n in (1, 2, 3)]
        self._begins = ["".join(self.draw.choices("abcd", k=n)) for n in (20, 100, 180)]
        self._meddled: set[InlineCore] = set()

    def meddle(self) -> None:
        """Have every core look for commands, and worse, before each step."""
        for core in self.rig.cores:
            if core.alive and core.engine and core not in self._meddled:
                self._meddled.add(core)
                self._listen(core)

    def _listen(self, core: InlineCore) -> None:
        engine = core.engine
        assert engine
        decode = engine.decode

        def decoded(rows: Sequence[Row]) -> dict[int, Logits]:
            assert rows and all(len(row.tokens) for row in rows)
            self.act()
            self.rig.loop.turn(0)
            if self._kills and self.draw.random() < 0.005:
                self._kills -= 1
                raise Died
            return decode(rows)

        engine.decode = decoded  # type: ignore[method-assign]

    def act(self) -> None:
        if not self.left or self._acting:
            return
        self.left -= 1
        self._acting = True
        undone = [r for r in self.asked if r.id not in self.rig.outcomes]
        match self.draw.randrange(30):
            case 0 | 1 | 2 | 3 if len(undone) < 12:
                self.ask()
            case 4 if undone:
                request = self.draw.choice(undone)
                self.asked.remove(request)
                self.rig.model.cancel(request, Cancelled("by the test"))
            case 5 if undone:
                self.held.append(self.draw.choice(undone))
                self.rig.model.hold(self.held[-1])
            case 6 | 7 | 8 if self.held:
                self.rig.model.unhold(self.held.pop())
            case 9:
                self.rig.settings.policy = self.draw.choice(list(policy.POLICIES.values()))
                self.rig.settings.width = self.draw.randint(1, 5)
                for request in undone[:3]:
                    request.rank, request.nice = self.draw.randint(0, 2), self.draw.randint(-9, 9)
                self.rig.model.reconsider()
        self.rig.check()
        self._acting = False

    def ask(self) -> None:
        draw, account = self.draw, self.draw.choice(self._accounts)
        if draw.random() < 0.2:
            turns = [Message("user", f"{n} " + "w" * draw.randint(5, 50)) for n in range(20)]
            window = draw.choice(("truncate", "summarise"))
            self.asked.append(self.rig.ask(turns, window=window, tokens=20, account=account))
        else:
            prompt = draw.choice(self._begins) + "x" * draw.randint(0, 40)
            tokens, rank = draw.randint(1, 50), draw.randint(0, 2)
            self.asked.append(self.rig.ask(prompt, tokens=tokens, rank=rank, account=account))


@pytest.mark.parametrize("rung", [None, GRID], ids=["mixed", "grid"])
@pytest.mark.parametrize(
    "model",
    ["fake:end=0", "fake:end=30", "fake:end=0,frozen=1", "fake:end=0,words=2,drafts=15"],
)
@pytest.mark.parametrize("seed", range(2))
def test_every_request_ends_with_the_tokens_of_running_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, model: str, rung: Rung | None
) -> None:
    monkeypatch.setattr(respawn, "WINDOW_S", 0.0)
    ram, disk = [(1 << 13, 0), (1 << 16, 1 << 18)][seed]
    with open_rig(tmp_path, model, seats=3, ram=ram, disk=disk, rung=rung) as rig:
        meddler = _Meddler(rig, seed)
        meddler.ask()
        while meddler.left:
            meddler.meddle()
            meddler.act()
            rig.step()
        for request in meddler.held:
            rig.model.unhold(request)

        def ended() -> bool:
            meddler.meddle()
            return all(request.id in rig.outcomes for request in meddler.asked)

        rig.wait(ended)
        for request in meddler.asked:
            assert rig.reply(request).tokens == rig.alone(request), request.id
