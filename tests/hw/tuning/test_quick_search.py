"""The quick search, with made-up results: what it asks for, and what it chooses."""

from __future__ import annotations

import pytest

from aios.hw.tuning.candidate import ORIGINAL, Candidate, Result, TuningJob
from aios.hw.tuning.exact_settings import RUNGS
from aios.hw.tuning.quick_search import QuickSearch
from aios.hw.tuning.search import Unusable, Wish

WISH = Wish(ladder=RUNGS, threads=(2,))
TEXT = (-900.0, -900.0)


class World:
    """Answers jobs; ``gain``: the copy's speed over the original's; ``refused``: a reason."""

    def __init__(
        self, gain: float = 1.5, worse: float = 0.5, inexact: int = 0, refused: str = ""
    ) -> None:
        self.gain, self.worse, self.inexact, self.refused = gain, worse, inexact, refused
        self.asked: list[TuningJob] = []

    def __call__(self, job: TuningJob) -> Result:
        self.asked.append(job)
        copy = job.candidate.weights != ORIGINAL
        if job.kind == "speed":
            speed = (self.gain if copy else 1.0) * (0.4 if job.candidate.rung.width else 1.0)
            return Result(prefill=300 * speed, alone=60 * speed, together=170 * speed)
        if job.kind == "perplexity":
            loss = 300 * self.worse / 100 if copy else 0.0
            return Result(windows=tuple(w - loss for w in TEXT), tokens=(300, 300))
        if job.kind == "exact":
            return Result(exact=RUNGS.index(job.candidate.rung) >= (self.inexact if copy else 0))
        return Result(failed=self.refused if job.kind == "copy" else "")

    def kinds(self) -> list[str]:
        return [f"{job.kind} {job.candidate.weights}" for job in self.asked]


def _search(world: World) -> QuickSearch:
    search = QuickSearch(WISH)
    steps = search.steps()
    job = next(steps)
    try:
        while True:
            job = steps.send(world(job))
    except StopIteration:
        return search


def test_a_copy_that_wins_clearly_needs_six_jobs() -> None:
    world = World()
    search = _search(world)
    assert search.exact.candidate == Candidate("Q8_0", RUNGS[0], 2) and search.exact.exact
    assert search.exact is search.fastest
    assert world.kinds() == [
        "speed original", "copy Q8_0", "speed Q8_0", "perplexity original", "perplexity Q8_0",
        "exact Q8_0",
    ]  # fmt: skip
    assert all(job.windows == 4 for job in world.asked if job.kind == "perplexity")


def test_a_small_gain_is_measured_twice() -> None:
    world = World(gain=1.1)
    assert _search(world).exact.candidate.weights == "Q8_0"
    assert world.kinds()[-2:] == ["speed Q8_0", "speed original"]


@pytest.mark.parametrize(
    "world",
    [
        World(gain=0.9),
        World(worse=3.0),
        World(inexact=len(RUNGS)),
        World(refused="the same as the original"),
    ],
    ids=["slower", "predicts worse", "inexact", "it is the original's format"],
)
def test_the_original_stays_with_a_tested_rung_and_no_copy_is_left(world: World) -> None:
    search = _search(world)
    assert search.exact.candidate == Candidate(ORIGINAL, RUNGS[0], 2) and search.exact.exact
    assert world.kinds()[-2:] == ["exact original", "drop Q8_0"]


def test_a_copy_on_a_later_rung_has_to_win_there() -> None:
    world = World(inexact=1)
    search = _search(world)
    assert search.exact.candidate == Candidate("Q8_0", RUNGS[1], 2)


def test_an_original_that_cannot_be_measured_is_unusable() -> None:
    steps = QuickSearch(WISH).steps()
    next(steps)
    with pytest.raises(Unusable, match="no memory"):
        steps.send(Result(failed="no memory"))
