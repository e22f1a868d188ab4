"""Several models at once: room, waiting, idleness, failures, and full context windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aios.hw.chat.conversation import Message
from aios.hw.engine.engine import Row
from aios.hw.engine.fake import FakeEngine
from aios.hw.engine.fake_guide import FakeGuide
from aios.kernel.loop import respawn
from aios.kernel.loop.task import start
from aios.kernel.model.info import describe
from aios.kernel.scheduler.account import Account
from aios.kernel.scheduler.request import Request
from aios.syscalls.errors import (
    Cancelled,
    ContextOverflow,
    IllegalState,
    InvalidArgument,
    ModelUnavailable,
)
from tests.kernel.rig import Died, Rig, open_rig, outcome_of

A, B = "fake:end=0", "fake:end=0,ctx=1024"
ONE = 2 * 512 * 64
"""Bytes of one loaded fake model of two seats."""


def test_a_model_unloaded_in_its_last_slice_serves_again(tmp_path: Path) -> None:
    """The last request's reply comes before its slice ends; by then the model may be gone."""
    with open_rig(tmp_path, A, quantum=50) as rig:

        def unload_next() -> None:
            rig.loop.at(0.0, lambda: rig.models.unload(rig.model))

        first = rig.ask("x", tokens=3, after=unload_next)
        rig.run()
        assert first.id in rig.outcomes and rig.model.state == "unloaded"
        second = rig.ask("x", tokens=3)
        rig.run()
        assert rig.reply(second).tokens == rig.alone(second)


def test_a_core_that_cannot_be_started_fails_its_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_rig(tmp_path, A) as rig:

        def no_more(*_: object) -> None:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        core = rig.models.find(B).core
        monkeypatch.setattr(core, "_start", no_more)
        with pytest.raises(ModelUnavailable, match="temporarily unavailable"):
            rig.ask("x", B, tokens=3)
        assert core.state == "failed"


def test_a_model_waits_for_room_and_the_idle_one_makes_it(tmp_path: Path) -> None:
    with open_rig(tmp_path, A, memory=ONE + 4096) as rig:
        rig.models.find(B)
        for name in (A, B, A, B):
            request = rig.ask("x", name, tokens=3)
            rig.run()
            assert request.id in rig.outcomes
        long, other = rig.ask("x", A, tokens=40), rig.ask("x", B, tokens=3)
        assert "waiting" in {rig.models.find(A).state, rig.models.find(B).state}
        rig.run()
        assert {long.id, other.id} <= set(rig.outcomes)


def test_a_model_that_waits_for_room_says_so_and_stops_when_unwanted(tmp_path: Path) -> None:
    with open_rig(tmp_path, A, memory=ONE + 4096) as rig:
        for name in (B, A):  # so that the sizes of both are known
            rig.ask("x", name, tokens=1)
            rig.run()
        busy = rig.ask("x", A, tokens=100)
        waiting = rig.ask("x", B, tokens=3)
        model = rig.models.find(B)
        said = describe(model, rig.models.jobs)
        assert said.state == "waiting" and "memory" in said.reason
        model.cancel(waiting, Cancelled("its deadline passed"))
        assert isinstance(rig.outcomes[waiting.id], Cancelled)
        cores = len(rig.cores)
        rig.run()
        assert rig.reply(busy) and model.state == "unloaded", "no request wants it any more"
        assert len(rig.cores) == cores


def test_a_model_that_can_never_fit_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with open_rig(tmp_path, A, memory=ONE - 4096) as rig:
        rig.ask("x", A, tokens=1)  # its size is not known yet
        rig.run()
        rig.models.unload(rig.model)
        with pytest.raises(ModelUnavailable, match=r"65,536 bytes.*61,440"):
            rig.ask("x", A)
        assert not rig.model.requests


def test_idle_models_are_unloaded_but_not_the_default(tmp_path: Path) -> None:
    with open_rig(tmp_path, A, idle_unload_s=0.05) as rig:
        for _ in range(20):
            rig.ask("x", B, tokens=1)
            rig.ask("x", A, tokens=1)
            rig.run()
        assert len(rig.models._idle_timers) <= 1, "one timer, however many requests"
        rig.wait(lambda: rig.models.find(B).state == "unloaded")
        assert rig.model.state == "ready"


def test_loading_and_unloading_by_hand(tmp_path: Path) -> None:
    with open_rig(tmp_path, A) as rig:
        core = rig.models.find(B).core
        first = start(core.when_ready())
        rig.models.unload(rig.models.find(B))  # before it is ready
        with pytest.raises(IllegalState):
            outcome_of(first)
        second = start(core.when_ready())
        rig.run()
        assert outcome_of(second) is None
        rig.ask("x", B, tokens=50)
        with pytest.raises(IllegalState, match="1 requests"):
            rig.models.unload(rig.models.find(B))
        rig.run()
        rig.models.unload(rig.models.find(B))
        rig.models.unload(rig.models.find(B))  # a second time does no harm


def test_a_model_that_cannot_be_loaded_fails_its_requests_only(
    tmp_path: Path,
) -> None:
    with open_rig(tmp_path, A) as rig:
        bad = rig.ask("x", "fake:nonsense=1")
        rig.run()
        outcome = rig.outcomes[bad.id]
        assert isinstance(outcome, ModelUnavailable) and "nonsense" in outcome.message
        with pytest.raises(ModelUnavailable):
            rig.ask("x", "fake:nonsense=1")  # too soon: it is not tried again
        good = rig.ask("x", tokens=1)
        rig.run()
        assert rig.reply(good)


def test_restarts_of_cores_that_keep_dying_are_delayed_and_end(tmp_path: Path) -> None:
    with open_rig(tmp_path, A) as rig:
        rig.ask("x", tokens=400)
        deaths: list[float] = []
        while rig.model.state != "failed" and rig.model.requests:
            rig.wait(lambda: rig.core.alive)
            rig.core.kill()
            deaths.append(rig.clock.now())
            rig.loop.turn(0)
        assert 3 <= len(deaths) <= 6, "bounded"
        assert deaths[-1] - deaths[-2] > 0.3, "later ones wait"


@pytest.mark.parametrize("where", ["decode", "tokenize_text"])
@pytest.mark.parametrize("name", ["rr", "fifo", "fair", "srtf"])
def test_a_request_that_kills_cores_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, name: str
) -> None:
    works = getattr(FakeEngine, where)

    def dies(engine: FakeEngine, given: list[Row] | str) -> object:
        texts = [given] if isinstance(given, str) else [str(bytes(r.tokens % 256)) for r in given]
        if any("!" in text for text in texts):
            raise Died
        return works(engine, given)

    monkeypatch.setattr(FakeEngine, where, dies)
    monkeypatch.setattr(respawn, "WINDOW_S", 0.0)
    with open_rig(tmp_path, A, seats=4, name=name) as rig:
        before = [rig.ask(f"good {n}", tokens=9) for n in range(3)]
        bad = rig.ask("bad!", tokens=5)
        after = [rig.ask(f"good {n}", tokens=3) for n in range(3, 6)]
        rig.wait(lambda: len(rig.outcomes) == 7)
        assert isinstance(rig.outcomes[bad.id], ModelUnavailable)
        assert all(rig.reply(good).tokens == rig.alone(good) for good in before + after)


def test_a_grammar_without_a_next_token_ends_its_own_request_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = FakeGuide.allowed

    def stuck(guide: FakeGuide) -> np.ndarray:
        now = allowed(guide)
        return now if now[ord("y")] else np.zeros_like(now)

    monkeypatch.setattr(FakeGuide, "allowed", stuck)
    with open_rig(tmp_path, A) as rig:
        good = rig.ask("good", tokens=30)
        bad = rig.ask("bad", tokens=30, grammar="root ::= [yz] [ab]")
        rig.run()
        outcome = rig.outcomes[bad.id]
        assert isinstance(outcome, InvalidArgument) and "grammar" in outcome.message
        assert len(bad.generated) == 1, "the token it had drawn counts"
        assert rig.reply(good).tokens == rig.alone(good)
        assert rig.model.core.restarts == 0


def test_names_of_models_do_not_pile_up(tmp_path: Path) -> None:
    with open_rig(tmp_path, A) as rig:
        for n in range(700):
            rig.models.find(f"fake:end={n}")
        assert len(rig.models._by_name) <= 256
        rig.ask("x", tokens=1)
        rig.run()
        assert rig.model.state == "ready"


# ---------------------------------------------------------------------------- the window


def _talk(turns: int, length: int = 40) -> list[Message]:
    said = [Message("system", "be brief")]
    for n in range(turns):
        said.append(Message("user" if n % 2 == 0 else "assistant", f"{n} " + "w" * length))
    return said


@pytest.mark.parametrize("policy", ["error", "truncate", "summarise"])
def test_a_conversation_that_outgrows_the_window(tmp_path: Path, policy: str) -> None:
    with open_rig(tmp_path, A, ram=1 << 22) as rig:
        request = rig.ask(_talk(21), window=policy, tokens=20)
        rig.run()
        outcome = rig.outcomes[request.id]
        if policy == "error":
            assert isinstance(outcome, ContextOverflow) and "512" in outcome.message
            return
        report = rig.reply(request).window
        assert report and report.policy == policy and 0 < report.dropped_turns < 21
        assert bool(report.summary) == (policy == "summarise")
        text = bytes(t for t in request.tokens if t < 256).decode()
        assert "be brief" in text and "20 w" in text and "0 w" in text and "\n1 w" not in text
        assert ("Summary of the conversation" in text) == (policy == "summarise")
        fits = rig.ask(_talk(3), window=policy, tokens=5)
        rig.run()
        assert rig.reply(fits).window is None


@pytest.mark.parametrize("policy", ["truncate", "summarise"])
def test_a_conversation_is_cut_to_what_its_program_may_hold(tmp_path: Path, policy: str) -> None:
    with open_rig(tmp_path, A, ram=1 << 22) as rig:
        account = Account(1, quota_cells=400)
        request = rig.ask(_talk(21), window=policy, tokens=20, account=account)
        rig.run()
        reply = rig.reply(request)
        assert reply.window and reply.window.dropped_turns
        assert reply.usage.prompt_tokens + 20 <= 400 and len(reply.tokens) == 20


def test_a_message_that_no_policy_makes_fit_is_an_error(tmp_path: Path) -> None:
    with open_rig(tmp_path, A) as rig:
        for policy in ("truncate", "summarise"):
            request = rig.ask([Message("user", "w" * 600)], window=policy)
            rig.run()
            assert isinstance(rig.outcomes[request.id], ContextOverflow)


@pytest.mark.parametrize("how", ["cancel", "kill", "pause"])
def test_a_request_ends_or_continues_while_it_is_summarised(tmp_path: Path, how: str) -> None:
    def begun(rig: Rig) -> bool:
        return any(number < 0 for number in rig.model.requests)

    with open_rig(tmp_path, A, ram=1 << 22) as rig:
        request = rig.ask(_talk(21), window="summarise", tokens=5)
        rig.run(lambda: begun(rig))
        assert request.helper
        if how == "cancel":
            rig.model.cancel(request, Cancelled("by the test"))
            assert not rig.model.requests
        elif how == "kill":
            rig.core.kill()
        else:
            rig.model.hold(request)
            rig.run()
            assert begun(rig) and request.id not in rig.outcomes
            rig.model.unhold(request)
        rig.wait(lambda: request.id in rig.outcomes)
        assert (how == "cancel") == isinstance(rig.outcomes[request.id], Cancelled)


def test_the_pieces_of_a_summary_are_requests_of_their_own(tmp_path: Path) -> None:
    """The next piece reaches the core while a slice still has a row of the piece before."""
    with open_rig(tmp_path, A, ram=1 << 22, quantum=64) as rig:
        other = rig.ask("x", tokens=480)
        rig.run(lambda: len(other.tokens) > 2)
        rig.listen_in_slices()
        request = rig.ask(_talk(30), window="summarise", tokens=5)
        helpers: list[Request] = []

        def note() -> bool:
            if request.helper and request.helper not in helpers:
                helpers.append(request.helper)
            return False

        rig.run(note)
        assert len(helpers) > 2
        assert all(helper.generated == rig.drawn_alone(helper, A) for helper in helpers)
        assert rig.reply(other).tokens == rig.alone(other)
