"""The search for the best candidate: a generator that yields jobs and receives their results.

It measures nothing itself, so tests can make up the results. It is deterministic: given the same
results it yields the same jobs, so an interrupted search continues when it receives the known
results again.

Stages: thread count → the original's exactness and perplexity → weight formats → settings for the
best → finals, where the remaining candidates are measured in turns and medians decide.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from statistics import median

import msgspec

from aios.hw.engine.engine import Rung

from . import perplexity
from .candidate import (
    FORMATS,
    ORIGINAL,
    Candidate,
    Result,
    TuningJob,
    score,
)

Stage = Generator[TuningJob, Result, None]
Check = Generator[TuningJob, Result, bool]
Change = Callable[[Candidate], Candidate | None]

_COMPETITIVE = 0.93
"""Share of the best score below which a candidate is dropped."""
_CLOSE = 0.8
"""Share of the best score above which a candidate is measured again before it is dropped."""
GAIN = 1.02
"""Minimum ratio of scores for which other settings, or a copy, are worth choosing."""
ROUNDS = 3
FINALISTS = 3


def _kv(kv_type: str) -> Change:
    """Return the change to another KV type."""

    def change(candidate: Candidate) -> Candidate | None:
        before = candidate.rung
        if before.kv_type == kv_type:
            return None
        name = f"{kv_type} KV, {before.name.rpartition('KV, ')[2]}"
        rung = msgspec.structs.replace(before, name=name, kv_type=kv_type)
        return msgspec.structs.replace(candidate, rung=rung)

    return change


def _ubatch(tokens: int) -> Change:
    return lambda candidate: msgspec.structs.replace(candidate, ubatch_tokens=tokens)


def _plain(candidate: Candidate) -> Candidate | None:
    """Use the weights as they are in the file, not repacked."""
    rung = candidate.rung
    if not rung.extra_buffers or candidate.weights == ORIGINAL:
        return None
    plain = msgspec.structs.replace(rung, extra_buffers=False, name=f"{rung.name}, no repacking")
    return msgspec.structs.replace(candidate, rung=plain)


CHANGES: tuple[Change, ...] = (
    _kv("q8_0/f16"), _kv("q8_0"), _kv("f16"), _ubatch(256), _ubatch(128), _plain,
)  # fmt: skip


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a search. ``threads``: counts to try, in descending order."""

    ladder: tuple[Rung, ...]
    threads: tuple[int, ...]
    limit_percent: float = 1.0
    formats: tuple[str, ...] = tuple(FORMATS)


@dataclass(eq=False)
class Trial:
    """All that is known of a candidate. ``worse_percent``: perplexity over the original's."""

    candidate: Candidate
    first: Result
    """The first measurement of speed."""
    finals: list[Result] = field(default_factory=list)
    exact: bool | None = None
    worse_percent: float | None = None
    read_all: bool = True
    """False if reading the text was stopped because the outcome was clear."""
    note: str = ""

    @property
    def speed(self) -> Result:
        """The medians of the finals, or the first measurement if there were none."""
        if not self.finals:
            return self.first
        return msgspec.structs.replace(self.first, **{
            name: median(getattr(each, name) for each in self.finals)
            for name in ("prefill", "alone", "together")
        })  # fmt: skip

    @property
    def score(self) -> float:
        """Tokens/s of agents' mix."""
        return score(self.speed)


class Unusable(Exception):
    """The original cannot be loaded or measured; the text gives the reason."""


class Search:
    """Run ``steps`` to the end; then ``trials`` and the two choices are set."""

    read_windows = 0
    """Windows of the text to read; 0: all."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self.trials: list[Trial] = []
        self.exact: Trial
        """The choice: the best candidate whose rung passed the self-test, else the original."""
        self.fastest: Trial
        """The choice for ``--exact off``: the best candidate of all."""
        self.baseline: Trial
        """The original as it is loaded without a profile: with its first rung that passed the
    self-test, or as it was measured first if none has."""
        self._windows: tuple[float, ...] = ()
        self._base: Trial

    def steps(self) -> Stage:
        """Yield all jobs. Raises Unusable."""
        yield from self._original()
        for name in self._wish.formats:
            yield from self._format(name)
        best_exact = max(self._exact(), key=lambda trial: trial.score, default=None)
        if best_exact:
            yield from self._settings(best_exact)
        yield from self._finals()
        self._choose()
        for trial in self.trials:
            kept = {self.exact.candidate.weights, self.fastest.candidate.weights, ORIGINAL}
            if trial.candidate.weights not in kept:
                yield TuningJob(kind="drop", candidate=trial.candidate)

    def _original(self) -> Stage:
        ladder = self._wish.ladder
        best: Trial | None = None
        for threads in self._wish.threads:
            trial = yield from self._measure(Candidate(ORIGINAL, ladder[0], threads))
            if trial.note:
                raise Unusable(trial.note)
            if best and trial.score < best.score:
                trial.note = "slower"
                break  # even fewer threads will not be faster
            if best:
                best.note = "slower"
            best = trial
        assert best
        self._base, best.worse_percent = best, 0.0
        yield from self._read_original()
        self.baseline = (yield from self._climb(best)) or best

    def _read_original(self) -> Stage:
        result = yield TuningJob(
            kind="perplexity", candidate=self._base.candidate, windows=self.read_windows
        )
        if result.failed:
            raise Unusable(result.failed)
        self._windows = result.windows

    def _format(self, name: str) -> Stage:
        """Try a copy in this format: make it, measure it, read the text, run the self-test."""
        candidate = msgspec.structs.replace(self._base.candidate, weights=name)
        made = yield TuningJob(kind="copy", candidate=candidate)
        if made.failed:
            self.trials.append(Trial(candidate, made, note=made.failed))
            return
        trial = yield from self._measure(candidate)
        worth_it = not trial.note and (yield from self._worth_it(trial))
        if worth_it and (yield from self._reads_well(trial)):
            yield from self._climb(trial)
        if not any(t.candidate.weights == name for t in self._passed()):
            yield TuningJob(kind="drop", candidate=candidate)

    def _settings(self, best: Trial) -> Stage:
        """Try other settings for the best weights, one at a time; keep each that helps."""
        for change in CHANGES:
            candidate = change(best.candidate)
            if candidate is None:
                continue
            trial = yield from self._measure(candidate)
            if trial.note or not (yield from self._worth_it(trial)):
                continue
            if candidate.rung.kv_type == best.candidate.rung.kv_type:
                trial.worse_percent = best.worse_percent
            elif not (yield from self._reads_well(trial)):
                continue
            if (yield from self._test(trial)) and trial.score > GAIN * best.score:
                best = trial

    def _finals(self) -> Stage:
        """Measure the remaining candidates in turns; the original always takes part."""
        ranked = sorted(self._passed(), key=lambda trial: -trial.score)
        field_ = [t for t in ranked if t.exact][:FINALISTS]
        least = field_[0].score if field_ else 0.0
        field_ += [t for t in ranked if not t.exact and t.score > least][:1]
        field_ += [t for t in (self._base, self.baseline) if t not in field_]
        field_ = list(dict.fromkeys(field_))
        for round_ in range(1, ROUNDS + 1):
            for trial in field_ if round_ % 2 else reversed(field_):
                result = yield TuningJob(kind="speed", candidate=trial.candidate, round=round_)
                if not result.failed:
                    trial.finals.append(result)

    def _choose(self) -> None:
        """Set the choices; the simpler candidate wins if the gain is within measuring error."""
        finalists = [trial for trial in self.trials if trial.finals]
        self.exact = self.baseline
        for trial in (t for t in finalists if t.exact):
            if not self.exact.exact or trial.score > GAIN * self.exact.score:
                self.exact = trial
        self.fastest = self.exact
        for trial in [self._base, *finalists]:
            if trial.score > GAIN * self.fastest.score:
                self.fastest = trial

    def _measure(self, candidate: Candidate) -> Generator[TuningJob, Result, Trial]:
        result = yield TuningJob(kind="speed", candidate=candidate)
        trial = Trial(candidate, result, note=result.failed)
        self.trials.append(trial)
        return trial

    def _reads_well(self, trial: Trial) -> Check:
        limit = self._wish.limit_percent
        result = yield TuningJob(
            kind="perplexity",
            candidate=trial.candidate,
            limit_percent=limit,
            against=self._windows,
            windows=self.read_windows,
        )
        if result.failed:
            trial.note = result.failed
            return False
        trial.worse_percent = perplexity.worse_percent(result.windows, self._windows, result.tokens)
        trial.read_all = len(result.windows) == len(self._windows)
        if trial.worse_percent > limit or not trial.read_all:
            trial.note = "predicts worse"
        return not trial.note

    def _test(self, trial: Trial) -> Check:
        result = yield TuningJob(kind="exact", candidate=trial.candidate)
        trial.exact = result.exact
        if not trial.exact:
            trial.note = result.failed or "not exact"
        return trial.exact

    def _climb(self, trial: Trial) -> Generator[TuningJob, Result, Trial | None]:
        """Try rungs until one passes, and return its trial.

        A later rung is not tested if another exact candidate is as fast.
        """
        for rung in self._wish.ladder:
            if rung != trial.candidate.rung:
                worse = trial.worse_percent
                candidate = msgspec.structs.replace(trial.candidate, rung=rung)
                trial = yield from self._measure(candidate)
                trial.worse_percent = worse
                if trial.note:
                    continue
                if trial.score <= max((t.score for t in self._exact()), default=0.0):
                    trial.note = "slower"
                    return None
            if (yield from self._test(trial)):
                return trial
        return None

    def _passed(self) -> list[Trial]:
        """Return the trials that may be chosen, exact or not."""
        settled = [t for t in self.trials if t.exact is not None and t.worse_percent is not None]
        return [t for t in settled if t.note in ("", "not exact")]

    def _exact(self) -> list[Trial]:
        return [trial for trial in self._passed() if trial.exact]

    def _worth_it(self, trial: Trial) -> Check:
        """Return False for a trial that is clearly slower than the best exact one.

        In a close call both are measured once more: the machine may have been busy.
        """
        best = max(self._exact(), key=lambda other: other.score, default=None)
        if best is None or best is trial:
            return True
        share = trial.score / max(best.score, 1e-9)
        if _CLOSE < share < _COMPETITIVE:
            again = -len(self.trials)
            mine = yield TuningJob(kind="speed", candidate=trial.candidate, round=again)
            its = yield TuningJob(kind="speed", candidate=best.candidate, round=again)
            share = score(mine) / max(score(its), 1e-9)
        if share < _COMPETITIVE:
            trial.note = "slower"
        return not trial.note
