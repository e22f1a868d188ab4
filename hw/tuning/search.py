"""The search for the best candidate: a procedure that asks for jobs and is told their results.

It measures nothing itself, so it can be tested with made-up results; and since it asks for the
same jobs when it is told the same results, an interrupted search goes on where it was by being told
again what is known.

threads → the original's exactness and perplexity → weight formats → settings for the best → finals,
where what is left is measured in turns and medians decide.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from statistics import median

import msgspec

from aios.hw.engine.engine import Rung

from . import perplexity
from .candidate import FORMATS, ORIGINAL, Candidate, Job, Result, score

Steps = Generator[Job, Result, bool]
Change = Callable[[Candidate], Candidate | None]

_PLAINLY = 0.93
"""Below this share of the best so far, a candidate is not looked at again."""
_BETTER = 1.02
"""The least gain for which other settings are taken, or a copy in place of the original."""
_CLOSE = 0.8
"""Above this share, and below the other, one look does not settle it."""
ROUNDS = 3
FINALISTS = 3


def _kv(kv_type: str) -> Change:
    """Other KV types: taken where the self-test passes, or where nobody asks for it."""
    rung = Rung(f"{kv_type} KV, mixed batches", kv_type=kv_type)

    def change(candidate: Candidate) -> Candidate | None:
        if candidate.rung.kv_type == kv_type:
            return None
        return msgspec.structs.replace(candidate, rung=rung)

    return change


def _ubatch(tokens: int) -> Change:
    return lambda candidate: msgspec.structs.replace(candidate, ubatch_tokens=tokens)


def _plain(candidate: Candidate) -> Candidate | None:
    """Weights as they are in the file."""
    rung = candidate.rung
    if not rung.extra_buffers or candidate.weights == ORIGINAL:
        return None
    plain = msgspec.structs.replace(rung, extra_buffers=False, name=f"{rung.name}, no repacking")
    return msgspec.structs.replace(candidate, rung=plain)


CHANGES: tuple[Change, ...] = (
    _kv("q8_0/f16"), _kv("q8_0"), _kv("f16"), _ubatch(256), _ubatch(128), _plain,
)  # fmt: skip


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What to search for. ``threads``: counts to try, most first."""

    ladder: tuple[Rung, ...]
    threads: tuple[int, ...]
    limit_percent: float = 1.0
    formats: tuple[str, ...] = tuple(FORMATS)


@dataclass(eq=False)
class Trial:
    """What is known of a candidate. ``worse_percent``: its perplexity over the original's."""

    candidate: Candidate
    look: Result
    finals: list[Result] = field(default_factory=list)
    exact: bool | None = None
    worse_percent: float | None = None
    read_all: bool = True
    """False: the text was not read to its end, because the outcome was clear."""
    note: str = ""

    @property
    def best_known(self) -> Result:
        """Medians of the final looks, or the only look."""
        if not self.finals:
            return self.look
        return msgspec.structs.replace(self.look, **{
            name: median(getattr(each, name) for each in self.finals)
            for name in ("prefill", "alone", "together")
        })  # fmt: skip

    @property
    def score(self) -> float:
        """Tokens/s of the mix."""
        return score(self.best_known)


class Unusable(Exception):
    """The original itself cannot be loaded or measured; the text says why."""


class Search:
    """Run ``steps`` to its end; then ``trials`` and the two choices are there."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self.trials: list[Trial] = []
        self.exact: Trial
        """The best whose rung passed the self-test."""
        self.fastest: Trial
        """The best of all, for ``--exact off``."""
        self._windows: tuple[float, ...] = ()
        self._base: Trial
        self._base_exact: Trial
        self._finalists: list[Trial] = []

    def steps(self) -> Steps:
        """All of it. Raises Unusable."""
        yield from self._original()
        for name in self._wish.formats:
            if name not in self._base.look.description.split():
                yield from self._format(name)
        yield from self._settings(max(self._exact(), key=lambda trial: trial.score))
        yield from self._finals()
        self._choose()
        for trial in self.trials:
            kept = {self.exact.candidate.weights, self.fastest.candidate.weights, ORIGINAL}
            if trial.candidate.weights not in kept:
                yield Job(kind="drop", candidate=trial.candidate)
        return True

    @property
    def baseline(self) -> Trial:
        """The original as it is loaded without a profile, exact."""
        return self._base_exact

    # ------------------------------------------------------------------ stages

    def _original(self) -> Steps:
        ladder = self._wish.ladder
        best: Trial | None = None
        for threads in self._wish.threads:
            trial = yield from self._look(Candidate(ORIGINAL, ladder[0], threads))
            if trial.note:
                raise Unusable(trial.note)
            if best and trial.score < best.score:
                trial.note = "slower"
                break  # fewer still will not be faster
            if best:
                best.note = "slower"
            best = trial
        assert best
        self._base, best.worse_percent = best, 0.0
        result = yield Job(kind="perplexity", candidate=best.candidate)
        if result.failed:
            raise Unusable(result.failed)
        self._windows = result.windows
        self._base_exact = yield from self._climb(best)
        return True

    def _format(self, name: str) -> Steps:
        """A copy in this format: made, looked at, held against the text, then the self-test."""
        candidate = msgspec.structs.replace(self._base.candidate, weights=name)
        made = yield Job(kind="copy", candidate=candidate)
        if made.failed:
            self.trials.append(Trial(candidate, made, note=made.failed))
            return False
        trial = yield from self._look(candidate)
        worth_it = not trial.note and (yield from self._worth_it(trial))
        if worth_it and (yield from self._reads_well(trial)):
            yield from self._climb(trial)
        if not any(t.candidate.weights == name for t in self._passed()):
            yield Job(kind="drop", candidate=candidate)
        return True

    def _settings(self, best: Trial) -> Steps:
        """Other settings for the best weights, one thing at a time, each on top of what helped."""
        for change in CHANGES:
            candidate = change(best.candidate)
            if candidate is None:
                continue
            trial = yield from self._look(candidate)
            if trial.note or not (yield from self._worth_it(trial)):
                continue
            if candidate.rung.kv_type == best.candidate.rung.kv_type:
                trial.worse_percent = best.worse_percent
            elif not (yield from self._reads_well(trial)):
                continue
            if (yield from self._test(trial)) and trial.score > _BETTER * best.score:
                best = trial
        return True

    def _finals(self) -> Steps:
        """What is left, in turns; the original always takes part."""
        ranked = sorted(self._passed(), key=lambda trial: -trial.score)
        field_ = [t for t in ranked if t.exact][:FINALISTS]
        field_ += [t for t in ranked if not t.exact and t.score > field_[0].score][:1]
        field_ += [t for t in (self._base, self._base_exact) if t not in field_]
        field_ = list(dict.fromkeys(field_))
        for round_ in range(1, ROUNDS + 1):
            for trial in field_ if round_ % 2 else reversed(field_):
                result = yield Job(kind="look", candidate=trial.candidate, round=round_)
                if not result.failed:
                    trial.finals.append(result)
        self._finalists = [trial for trial in field_ if trial.finals]
        return True

    def _choose(self) -> None:
        """Simpler settings win unless others are faster by more than measuring errs."""
        field_ = [trial for trial in self.trials if trial in self._finalists]
        self.exact = self._base_exact
        for trial in (t for t in field_ if t.exact):
            if trial.score > _BETTER * self.exact.score:
                self.exact = trial
        self.fastest = self.exact
        for trial in [self._base, *field_]:
            if trial.score > _BETTER * self.fastest.score:
                self.fastest = trial

    # ------------------------------------------------------------------ steps

    def _look(self, candidate: Candidate) -> Generator[Job, Result, Trial]:
        result = yield Job(kind="look", candidate=candidate)
        trial = Trial(candidate, result, note=result.failed)
        self.trials.append(trial)
        return trial

    def _reads_well(self, trial: Trial) -> Steps:
        limit = self._wish.limit_percent
        result = yield Job(kind="perplexity", candidate=trial.candidate, limit_percent=limit,
                           against=self._windows)  # fmt: skip
        if result.failed:
            trial.note = result.failed
            return False
        trial.worse_percent = perplexity.worse_percent(result.windows, self._windows, result.tokens)
        trial.read_all = len(result.windows) == len(self._windows)
        if trial.worse_percent > limit or not trial.read_all:
            trial.note = "predicts worse"
        return not trial.note

    def _test(self, trial: Trial) -> Steps:
        result = yield Job(kind="exact", candidate=trial.candidate)
        trial.exact = result.exact
        if not trial.exact:
            trial.note = result.failed or "not exact"
        return trial.exact

    def _climb(self, trial: Trial) -> Generator[Job, Result, Trial]:
        """Down the ladder to the first rung that passes; the last needs no test.

        A lower rung is not worth a test when something else is exact and as fast.
        """
        for rung in self._wish.ladder:
            if rung != trial.candidate.rung:
                worse = trial.worse_percent
                candidate = msgspec.structs.replace(trial.candidate, rung=rung)
                trial = yield from self._look(candidate)
                trial.worse_percent = worse
                if trial.note:
                    continue
                if trial.score <= max((t.score for t in self._exact()), default=0.0):
                    trial.note = "slower"
                    break
            if rung.width == 1:
                trial.exact = True
            elif not (yield from self._test(trial)):
                continue
            break
        return trial

    def _passed(self) -> list[Trial]:
        """Those that may be chosen, exact or not."""
        settled = [t for t in self.trials if t.exact is not None and t.worse_percent is not None]
        return [t for t in settled if t.note in ("", "not exact")]

    def _exact(self) -> list[Trial]:
        return [trial for trial in self._passed() if trial.exact]

    def _worth_it(self, trial: Trial) -> Steps:
        """Not plainly slower than the best that is exact, and so good for everything.

        A close call is measured once more, both in turn: the machine may have been busy.
        """
        best = max(self._exact(), key=lambda other: other.score, default=None)
        if best is None or best is trial:
            return True
        share = trial.score / max(best.score, 1e-9)
        if _CLOSE < share < _PLAINLY:
            again = -len(self.trials)
            mine = yield Job(kind="look", candidate=trial.candidate, round=again)
            its = yield Job(kind="look", candidate=best.candidate, round=again)
            share = score(mine) / max(score(its), 1e-9)
        if share < _PLAINLY:
            trial.note = "slower"
        return not trial.note
