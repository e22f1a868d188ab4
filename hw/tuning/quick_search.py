"""The quick search: one likely weight format and few measurements, for a model's idle time.

A copy in Q8_0 is nearly lossless, and on most CPUs it is the fastest format that is exact, so only
that is tried, with less text. The thorough search (search.py) tries other formats and settings.
"""

from __future__ import annotations

from collections.abc import Generator

from .candidate import ORIGINAL, Candidate, Result, TuningJob
from .search import GAIN, Search, Stage, Trial, Unusable

QUICK_FORMATS = ("Q8_0",)
_CLEAR = 1.15
"""Gain in the first measurements from which they are not repeated."""


class QuickSearch(Search):
    """Like Search: run ``steps`` to the end; then ``trials`` and the two choices are set."""

    read_windows = 4

    def steps(self) -> Stage:
        """Yield all jobs. Raises Unusable."""
        wish = self._wish
        base = yield from self._measure(Candidate(ORIGINAL, wish.ladder[0], wish.threads[0]))
        if base.note:
            raise Unusable(base.note)
        self._base = self.baseline = base
        base.worse_percent = 0.0
        copies = []
        for name in QUICK_FORMATS:
            if name in wish.formats:
                copies.append((yield from self._copy(name)))
        best = next((copy for copy in copies if copy and copy.exact), None)
        if best:
            yield from self._compare(base, best)
        if not best or best.score <= GAIN * base.score:
            self.baseline = (yield from self._climb(base)) or base
        self._choose()
        if self.exact.candidate.weights == ORIGINAL:
            for name in QUICK_FORMATS:
                job = Candidate(name, wish.ladder[0], wish.threads[0])
                yield TuningJob(kind="drop", candidate=job)

    def _copy(self, name: str) -> Generator[TuningJob, Result, Trial | None]:
        """Make a copy; return it if it is faster, predicts well, and a rung of it is exact."""
        wish = self._wish
        candidate = Candidate(name, wish.ladder[0], wish.threads[0])
        made = yield TuningJob(kind="copy", candidate=candidate)
        if made.failed:
            self.trials.append(Trial(candidate, made, note=made.failed))
            return None
        trial = yield from self._measure(candidate)
        if not trial.note and trial.score <= self._base.score:
            trial.note = "slower"
        if trial.note:
            return None
        if not self._windows:
            yield from self._read_original()
        if not (yield from self._reads_well(trial)):
            return None
        return (yield from self._climb(trial))

    def _compare(self, base: Trial, best: Trial) -> Stage:
        """Measure both once more, in turns, if the gain is small."""
        if best.score > _CLEAR * base.score:
            base.finals, best.finals = [base.first], [best.first]
            return
        for trial in (best, base):
            trial.finals.append((yield TuningJob(kind="speed", candidate=trial.candidate, round=1)))
