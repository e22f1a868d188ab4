"""Grammars made in a thread: the core goes on meanwhile, and each request gets an answer."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios.hw.core import messages
from aios.hw.core.core import Core
from aios.hw.core.grammar_maker import GrammarMaker
from aios.hw.core.messages import Event, Prepared, Refused, take_event
from aios.hw.engine.engine import Constraint, EngineSettings, Grammar
from aios.hw.engine.fake import FakeEngine
from aios.hw.engine.sampling import SamplingParams
from aios.hw.machine.arena import Arena
from aios.hw.machine.framing import encode
from aios.hw.models.file_watch import FileWatch
from aios.hw.tuning.thread_watch import ThreadWatch

WAIT_S = 60.0


class _SlowEngine(FakeEngine):
    """Its grammars wait for ``go``."""

    def __init__(self) -> None:
        super().__init__(EngineSettings(path="fake", seats=2))
        self.go, self.making = threading.Event(), threading.Event()

    def grammar(self, constraint: Constraint) -> Grammar:
        self.making.set()
        assert self.go.wait(WAIT_S)
        if constraint.text == "broken":
            raise RuntimeError("a fault")
        return super().grammar(constraint)


class _Bench:
    """A core in a thread, and the kernel's end of its link."""

    def __init__(self, engine: _SlowEngine, arena: Arena) -> None:
        self.engine = engine
        self._link, self._theirs = socket.socketpair()
        self._maker, self._buffer = GrammarMaker(engine), bytearray()
        core = Core(
            self._theirs, engine, arena, ThreadWatch(engine, [1]), FileWatch([]), self._maker
        )
        self._thread = threading.Thread(target=core.run)
        self._thread.start()

    def ask(self, request: int, regex: str | None = None) -> None:
        """Have a request prepared."""
        constraint = Constraint("regex", regex) if regex else None
        params = SamplingParams(max_tokens=9, seed=0, constraint=constraint)
        self.send(messages.Prepare(request, params, False, prompt="x"))

    def send(self, command: messages.Command) -> None:
        """Send a command."""
        self._link.sendall(encode(command))

    def event(self) -> Event:
        """Return the core's next event."""
        while (event := take_event(self._buffer)) is None:
            assert select.select([self._link], [], [], WAIT_S)[0]
            self._buffer += self._link.recv(1 << 16)
        return event

    def close(self) -> None:
        """End the core."""
        self.engine.go.set()
        self._link.close()
        self._thread.join()
        self._theirs.close()
        self._maker.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[_Bench]:
    made = _Bench(_SlowEngine(), Arena(1 << 20))
    yield made
    made.close()


def test_other_requests_are_prepared_while_a_grammar_is_made(bench: _Bench) -> None:
    bench.ask(1, "a+")
    assert bench.engine.making.wait(WAIT_S)
    bench.ask(2)
    event = bench.event()
    assert isinstance(event, Prepared) and event.request == 2
    bench.engine.go.set()
    event = bench.event()
    assert isinstance(event, Prepared) and event.request == 1


def test_a_request_that_is_dropped_meanwhile_is_answered_once(bench: _Bench) -> None:
    bench.ask(1, "a+")
    bench.send(messages.Drop(1))
    event = bench.event()
    assert isinstance(event, Refused) and event.request == 1
    bench.engine.go.set()
    bench.ask(2, "b+")
    event = bench.event()
    assert isinstance(event, Prepared) and event.request == 2


def test_a_bad_grammar_and_a_fault_are_refusals(bench: _Bench) -> None:
    bench.engine.go.set()
    for request, regex, why in ((1, "(", "regular expression"), (2, "broken", "a fault")):
        bench.ask(request, regex)
        event = bench.event()
        assert isinstance(event, Refused) and event.request == request and why in event.reason
