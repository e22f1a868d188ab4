"""Models, their stores and real cores in one process, on the fake engine.

The kernel's half is the kernel's own; the core is hw.core's, on the fake engine, driven by hand:
``Rig.run`` lets commands and events go back and forth until neither side has anything to do. A test
may stop in between, kill a core there, and continue.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec
import numpy as np

from aios.hw.chat.conversation import Conversation, Message
from aios.hw.core.core import Core as CoreLoop
from aios.hw.core.messages import (
    Command,
    Event,
    Failed,
    Hello,
    Op,
    OpResult,
    take_event,
)
from aios.hw.engine.engine import (
    GRID_TOKENS,
    Constraint,
    Engine,
    EngineInfo,
    EngineSettings,
    LoadError,
    Logits,
    Row,
    Rung,
)
from aios.hw.engine.fake import FakeEngine
from aios.hw.engine.sampling import SamplingParams
from aios.hw.machine.arena import Arena
from aios.hw.machine.framing import encode
from aios.hw.models.file_watch import FileWatch
from aios.hw.models.names import Source
from aios.hw.tuning.idle_messages import IdleEvent, Kind
from aios.hw.tuning.thread_watch import ThreadWatch
from aios.kernel.context.store import KvStore
from aios.kernel.loop.link import Link
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, Promise
from aios.kernel.model.model import Model
from aios.kernel.model.models import Models
from aios.kernel.scheduler import policy
from aios.kernel.scheduler.account import Account
from aios.kernel.scheduler.pace import Settings
from aios.kernel.scheduler.request import Request
from aios.syscalls.errors import AiosError
from aios.syscalls.types.chat import ChatReply
from tests.waiting import wait_until

from .clock import FakeClock, next_timer

T = TypeVar("T")

GRID = Rung("prefill apart", mixed=False)
REPLAY = Rung("replay", mixed=False, replay=True)


class Died(BaseException):
    """Raised in a core's engine, it makes the core die there."""


class InlineCore:
    """A core in this process; it works only when ``work`` is called."""

    os_pid = 1

    def __init__(
        self,
        rig: Rig,
        path: str,
        on_event: Callable[[Event], None],
        on_gone: Callable[[], None],
    ) -> None:
        ours, self._socket = socket.socketpair()
        self.path, self.alive, self.ops = path, True, list[tuple[Op, OpResult]]()
        self._link: Link[Command, Event] = Link(
            rig.loop, ours, on_event, on_gone, encode, take_event
        )
        self._core: CoreLoop | None = None
        self.engine: Engine | None = None
        try:
            engine = FakeEngine(
                EngineSettings(path=path, context_tokens=rig.window, seats=rig.seats)
            )
        except LoadError as error:
            self._socket.sendall(encode(Failed(str(error))))
            self.kill()
            return
        if rig.files:
            content = rig.files[0].read_text()
            engine.declare(msgspec.structs.replace(engine.info, model_hash=content))
        if rig.rung:
            engine.declare(_with_rung(engine.info, rig.rung))
        self.engine = engine
        self._core = CoreLoop(
            self._socket, engine, rig.store.arena, ThreadWatch(engine, [1]), FileWatch(rig.files)
        )
        operate = self._core._seat_operations.carry_out
        self._core._seat_operations.carry_out = lambda op: self._note(op, operate(op))  # type: ignore[method-assign]
        self._socket.sendall(encode(Hello(engine.info)))

    def _note(self, op: Op, result: OpResult) -> OpResult:
        self.ops.append((op, result))
        return result

    def send(self, command: Command) -> None:
        self._link.send(command)

    def work(self) -> bool:
        """Carry out one command, if there is one. Return True if there was."""
        if not (self.alive and self._core and select.select([self._socket], [], [], 0)[0]):
            return False
        try:
            self._core._next_command()
        except Died:
            self.kill()
        else:
            if not self._core._alive:
                self.kill()
        return True

    def kill(self) -> None:
        """Die as from kill -9: the kernel finds the link closed."""
        if self.alive:
            self.alive = False
            if self._core:
                self._core._seat_operations.close()
                self._core._files.close()
            self._socket.close()

    def end(self) -> str:
        self.kill()
        self._link.close()
        return "signal 9"


class FakeJob:
    """An idle job that does nothing; a test calls ``on_event`` and ``on_gone`` itself."""

    os_pid = 2

    def __init__(
        self,
        kind: Kind,
        model: Model,
        on_event: Callable[[IdleEvent], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.kind, self.model, self.on_event, self.on_gone = kind, model, on_event, on_gone
        self.state = "runs"

    def pause(self) -> None:
        assert self.state == "runs"
        self.state = "paused"

    def resume(self) -> None:
        assert self.state == "paused"
        self.state = "runs"

    def end(self) -> str:
        assert self.state != "ended"
        self.state = "ended"
        return "signal 11"


class Rig:
    """The kernel's models, and requests to them."""

    def __init__(
        self,
        folder: Path,
        default: str = "fake:end=0",
        *,
        seats: int = 2,
        window: int | None = 512,
        name: str = "rr",
        quantum: int = 4,
        chunk: int = 32,
        ram: int = 1 << 20,
        disk: int = 0,
        memory: int | None = None,
        idle_unload_s: float = 0.0,
        rung: Rung | None = None,
        core_timeout_s: float = 0.0,
    ) -> None:
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.seats, self.window, self.rung = seats, window, rung
        self.store = KvStore(Arena(ram), folder / "kv" if disk else None, disk)
        self.settings = Settings(policy.find(name), quantum, seats, chunk)
        self.cores: list[InlineCore] = []
        self.files: list[Path] = []
        """Files that the cores take for those of their model."""
        self.models = Models(default, folder, self.store, self.settings, self.loop, self._start,
                             memory, idle_unload_s, core_timeout_s, self._start_job)  # fmt: skip
        self.jobs: list[FakeJob] = []
        self._ids = itertools.count(1)
        self.outcomes: dict[int, ChatReply | AiosError] = {}

    def _start(
        self,
        source: Source,
        earlier: EngineInfo | None,
        on_event: Callable[[Event], None],
        on_gone: Callable[[], None],
    ) -> InlineCore:
        self.cores.append(InlineCore(self, source.path, on_event, on_gone))
        return self.cores[-1]

    def _start_job(
        self,
        model: Model,
        kind: Kind,
        on_event: Callable[[IdleEvent], None],
        on_gone: Callable[[], None],
    ) -> FakeJob:
        self.jobs.append(FakeJob(kind, model, on_event, on_gone))
        return self.jobs[-1]

    @property
    def model(self) -> Model:
        return self.models.find(None)

    @property
    def core(self) -> InlineCore:
        return self.cores[-1]

    def ask(
        self,
        prompt: str | list[Message],
        model: str | None = None,
        *,
        tokens: int = 8,
        rank: int = 1,
        account: Account | None = None,
        window: str = "error",
        grammar: str | None = None,
        after: Callable[[], None] | None = None,
    ) -> Request:
        """Submit a request; its outcome goes to ``outcomes`` under its id."""
        number = next(self._ids)

        def done(outcome: Outcome[ChatReply]) -> None:
            assert outcome.error is None or isinstance(outcome.error, AiosError)
            self.outcomes[number] = outcome.error or outcome.result()
            if after:
                after()

        request = Request(
            id=number, pid=number, name=f"a{number}", rank=rank, nice=0,
            account=account or Account(number),
            params=SamplingParams(
                max_tokens=tokens, seed=number, temperature=1.0,
                constraint=Constraint("grammar", grammar) if grammar else None,
                max_context=account.quota_cells if account else None,
            ),
            talk=Conversation(messages=prompt) if isinstance(prompt, list) else None,
            prompt=prompt if isinstance(prompt, str) else None,
            window_policy=window,
        )  # fmt: skip
        request.result.then(done)
        self.models.find(model).submit(request)
        return request

    def step(self) -> bool:
        """Carry out one command of each core and the events there are. Return True if anything
        happened."""
        worked = [core.work() for core in list(self.cores)]
        before = len(self.loop._timers)
        self.loop.turn(0)
        return any(worked) or before != len(self.loop._timers) or self._pending()

    def _pending(self) -> bool:
        return any(
            core.alive and core._core and select.select([core._socket], [], [], 0)[0]
            for core in self.cores
        )

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Step until nothing happens any more, or a condition holds."""
        quiet = 0
        while not until() and quiet < 2:
            quiet = 0 if self.step() else quiet + 1
            self.check()

    def wait(self, until: Callable[[], bool], what: str = "the outcome") -> None:
        """Like ``run``, but time passes when nothing else happens: timers become due."""
        wait_until(until, what, self._step_or_pass_time)

    def _step_or_pass_time(self) -> None:
        if not self.step() and not next_timer(self.loop, self.clock):
            self.loop.turn(20)

    def check(self) -> None:
        problems = self.store.check()
        for model in self.models:
            problems += model.check()
        assert problems == []

    def reply(self, request: Request) -> ChatReply:
        outcome = self.outcomes[request.id]
        assert isinstance(outcome, ChatReply), outcome
        return outcome

    def listen_in_slices(self) -> None:
        """Turn the kernel's loop between the steps of a slice, too, from now on."""
        engine = self.core.engine
        assert engine
        decode = engine.decode

        def decoded(rows: Sequence[Row]) -> dict[int, Logits]:
            self.loop.turn(0)
            return decode(rows)

        engine.decode = decoded  # type: ignore[method-assign]

    def alone(self, request: Request) -> list[int]:
        """Return the tokens that the request gets from an engine of its own, token by token."""
        return self.drawn_alone(request, self.reply(request).model)

    def drawn_alone(self, request: Request, model: str) -> list[int]:
        """Do the same for a request that has no reply."""
        from aios.hw.core.generation import Generation

        engine = FakeEngine(EngineSettings(path=model, seats=1, context_tokens=self.window))
        prompt = np.array(request.tokens[: request.prompt_tokens], np.int32)
        generation = Generation(engine, prompt, len(prompt), request.params, False)
        drawn: list[int] = []
        while True:
            pending = generation.pending(engine.length(0))
            for at in range(0, len(pending), GRID_TOKENS):
                row = Row(0, engine.length(0), pending[at : at + GRID_TOKENS], True)
                logits = engine.decode([row])[0]
            [result], _ = generation.draw(logits[np.newaxis], pending[:0], 1)
            if result.token >= 0:
                drawn.append(result.token)
            if result.finish:
                return drawn

    def close(self) -> None:
        self.models.close()
        for model in self.models:
            if model.context:
                model.context.close()
        assert self.store.arena.used_bytes == 0 == self.store.disk_used_bytes
        self.check()
        self.store.close()
        self.loop.close()


def outcome_of(promise: Promise[T]) -> T:
    """Return what a settled promise was resolved with. Raises what it was rejected with."""
    outcomes: list[Outcome[T]] = []
    promise.then(outcomes.append)
    return outcomes[0].result()


def _with_rung(info: EngineInfo, rung: Rung) -> EngineInfo:
    return msgspec.structs.replace(info, rung=rung)


@contextlib.contextmanager
def open_rig(folder: Path, default: str = "fake:end=0", **options: Any) -> Iterator[Rig]:
    """A rig; at its end nothing may be left, descriptors included."""
    before = _descriptors()
    rig = Rig(folder, default, **options)
    with patch("time.monotonic", rig.clock.now):  # the core reads the time, too
        yield rig
        rig.close()
    assert _descriptors() <= before


def _descriptors() -> int:
    """Count descriptors except those of mappings, which last as long as a view of them."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += "memfd" not in os.readlink(f"/proc/self/fd/{fd}")
    return count
