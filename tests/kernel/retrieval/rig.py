"""An embedder on fake processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aios.hw.embed.embedder import FakeModel
from aios.hw.embed.messages import Embed, Ready, Unusable, Vectors
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.retrieval.embedder import Embedder
from tests.kernel.clock import FakeClock, next_timer
from tests.waiting import wait_until


class FakeProcess:
    """An embedder process without a process; ``dies`` counts batches it dies at."""

    os_pid = 1

    def __init__(self, rig: Rig, on_event: Any, on_gone: Any) -> None:
        self._rig, self._on_event, self._on_gone = rig, on_event, on_gone
        self._ended = False
        rig.started += 1
        if rig.unusable:
            rig.loop.at(0.0, lambda: on_event(Unusable("no weights")))
        elif rig.ready:
            rig.loop.at(0.0, lambda: on_event(Ready("fake", 384)))

    def send(self, command: Embed) -> None:
        self._rig.batches.append(command)
        if self._rig.dies > 0:
            self._rig.dies -= 1
            self._rig.loop.at(0.0, self._gone)
        elif not self._rig.hangs:
            rows = FakeModel().embed(command.texts, command.kind)
            event = Vectors(command.batch, [row.tobytes() for row in rows])
            self._rig.loop.at(0.0, lambda: None if self._ended else self._on_event(event))

    def _gone(self) -> None:
        if not self._ended:
            self._on_gone()

    def kill(self) -> None:
        self._rig.loop.at(0.0, self._gone)

    def end(self) -> str:
        self._ended = True
        return "signal 9"


class Rig:
    """A loop, an embedder on fake processes, and knobs for them."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock, self.loop = clock, Loop(clock)
        self.started = self.dies = 0
        self.hangs = self.unusable = False
        self.ready = True
        self.batches: list[Embed] = []
        self.embedder = Embedder(self.loop, lambda *back: FakeProcess(self, *back))

    def until(self, done: Callable[[], object]) -> None:
        """Serve the loop until something holds. A fake clock moves when nothing else does."""

        def turn() -> None:
            if not (self.clock and next_timer(self.loop, self.clock)):
                self.loop.turn(100)

        wait_until(done, "the embedder", turn)

    def embed(self, *texts: str) -> Outcome[list[bytes]]:
        got: list[Outcome[list[bytes]]] = []
        self.embedder.embed(texts).then(got.append)
        self.until(lambda: got)
        return got[0]
