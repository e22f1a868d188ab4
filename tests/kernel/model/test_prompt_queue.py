"""Prompts go to the core a few at a time, the urgent first, and none is lost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from aios.hw.engine.engine import Logits, Row, Tokens
from aios.kernel.model import prompt_queue
from aios.syscalls.errors import Cancelled, InvalidArgument, ModelUnavailable
from tests.kernel.rig import Died, Rig, open_rig

WINDOW_BYTES = 100
PROMPT = "a prompt of about forty bytes, number {:03}"


@pytest.fixture(autouse=True)
def _small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_queue, "MAX_BYTES", WINDOW_BYTES)
    monkeypatch.setattr(prompt_queue, "OVERHEAD_BYTES", 0)


class _Watched:
    """Records what a rig's core prepares, and how much of it between two steps."""

    def __init__(self, rig: Rig) -> None:
        self.made: list[str] = []
        self.before_steps: list[int] = []
        self.seats: list[int] = []
        """Rows in each step."""
        engine = rig.core.engine
        assert engine
        tokenize, decode = engine.tokenize_text, engine.decode

        def tokenized(text: str) -> Tokens:
            self.made.append(text)
            return tokenize(text)

        def decoded(rows: Sequence[Row]) -> dict[int, Logits]:
            self.before_steps.append(len(self.made))
            self.seats.append(len(rows))
            return decode(rows)

        engine.tokenize_text, engine.decode = tokenized, decoded  # type: ignore[method-assign]

    @property
    def most(self) -> int:
        """Most prompts between two steps."""
        steps = self.before_steps
        return max(after - before for before, after in itertools.pairwise(steps))


def test_a_flood_is_prepared_a_few_at_a_time_and_the_urgent_first(tmp_path: Path) -> None:
    with open_rig(tmp_path, window=2048) as rig:
        stream = rig.ask("x", tokens=200)
        rig.run(lambda: len(stream.tokens) > 3)
        watched = _Watched(rig)
        rig.listen_in_slices()
        flood = [rig.ask(PROMPT.format(n), tokens=2) for n in range(40)]
        urgent = rig.ask("urgent", tokens=2, rank=0)
        rig.run()
        assert watched.made.index("urgent") <= 2, "only prompts already sent come before it"
        assert watched.most <= 5, "one window, or two where a slice ends"
        for request in (stream, urgent, *flood):
            assert rig.reply(request).tokens == rig.alone(request)


def test_requests_that_arrive_together_begin_together(tmp_path: Path) -> None:
    with open_rig(tmp_path, seats=8) as rig:
        _served(rig, "x")
        watched = _Watched(rig)
        asked = [rig.ask(text) for text in ("some", "more", "other", "words")]
        refused = rig.ask("words", grammar="no grammar")
        rig.run()
        assert watched.seats[0] == 4
        assert isinstance(rig.outcomes[refused.id], InvalidArgument)
        for request in asked:
            assert rig.reply(request).tokens == rig.alone(request)


def test_slices_run_between_the_windows_of_a_flood(tmp_path: Path) -> None:
    with open_rig(tmp_path, seats=8) as rig:
        _served(rig, "x")
        watched = _Watched(rig)
        asked = [rig.ask(PROMPT.format(n), tokens=1) for n in range(20)]
        rig.run()
        assert watched.before_steps[0] == 2, "one window"
        for request in asked:
            assert rig.reply(request).tokens == rig.alone(request)


def test_a_prompt_cancelled_while_it_waits_is_never_prepared(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _served(rig, "x")
        watched = _Watched(rig)
        asked = [rig.ask(PROMPT.format(n)) for n in range(10)]
        for request in asked[:-1]:
            rig.model.cancel(request, Cancelled("by the test"))
        rig.run()
        assert watched.made == [PROMPT.format(n) for n in (0, 1, 9)]
        rig.reply(asked[-1])


def test_short_prompts_have_a_cost_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_queue, "OVERHEAD_BYTES", WINDOW_BYTES // 4)
    with open_rig(tmp_path, seats=8) as rig:
        _served(rig, "x")
        watched = _Watched(rig)
        for _ in range(9):
            rig.ask("y", tokens=1)
        rig.run()
        assert watched.before_steps[0] == 3


def test_a_change_of_rank_counts_for_waiting_prompts(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _served(rig, "x")
        watched = _Watched(rig)
        asked = [rig.ask(PROMPT.format(n), tokens=1) for n in range(10)]
        asked[-1].rank = 0
        rig.model.reconsider()
        rig.run()
        assert watched.made.index(PROMPT.format(9)) == 2, "after the prompts already sent"


@pytest.mark.parametrize("loading", [False, True])
def test_a_request_cancelled_when_its_core_is_dead_ends_once(tmp_path: Path, loading: bool) -> None:
    """The kernel has not noticed the death when it sends the core the news."""
    with open_rig(tmp_path) as rig:
        if not loading:
            _served(rig, "x")
        request, other = rig.ask("y"), rig.ask("z")
        request.core_deaths = 2
        rig.core.kill()
        rig.model.cancel(request, Cancelled("by the test"))
        rig.wait(lambda: len(rig.outcomes) == 2 + (not loading))
        assert isinstance(rig.outcomes[request.id], Cancelled | ModelUnavailable)
        assert other.id in rig.outcomes


def test_a_prompt_larger_than_the_window_goes_alone(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _served(rig, "x")
        asked = [rig.ask(text) for text in ("y" * (WINDOW_BYTES + 1), "a", "z" * 200, "b")]
        rig.run()
        for request in asked:
            assert rig.reply(request).tokens == rig.alone(request)


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_core_that_dies_while_it_prepares_loses_no_request(tmp_path: Path, at: int) -> None:
    with open_rig(tmp_path) as rig:
        _served(rig, "x")
        watched = _Watched(rig)
        engine = rig.core.engine
        assert engine
        tokenize = engine.tokenize_text

        def deadly(text: str) -> Tokens:
            if len(watched.made) == at:
                raise Died
            return tokenize(text)

        engine.tokenize_text = deadly  # type: ignore[method-assign]
        asked = [rig.ask(PROMPT.format(n)) for n in range(10)]
        rig.model.cancel(asked[0], Cancelled("by the test"))
        rig.wait(lambda: all(request.id in rig.outcomes for request in asked))
        assert len(rig.cores) == 2
        for request in asked[1:]:
            assert rig.reply(request).tokens == rig.alone(request)


def test_a_model_unloaded_with_a_cancelled_prompt_on_its_way_works_again(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        _served(rig, "x")
        rig.model.cancel(rig.ask("never answered"), Cancelled("by the test"))
        rig.models.unload(rig.model)
        _served(rig, "y")


def _served(rig: Rig, prompt: str) -> None:
    request = rig.ask(prompt, tokens=1)
    rig.run()
    rig.reply(request)
