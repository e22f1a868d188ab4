"""The self-test of drafts finds engines for which rows of several tokens change logits."""

from __future__ import annotations

from collections.abc import Sequence

from aios.hw.engine.engine import EngineSettings, Logits, Row
from aios.hw.engine.fake import FakeEngine
from aios.hw.tuning.draft_test import DRAFT_TOKENS, draft_limit


class _Blocks(FakeEngine):
    """Computes rows of 4 tokens and more with another kernel."""

    def decode(self, rows: Sequence[Row]) -> dict[int, Logits]:
        out = super().decode(rows)
        for row in rows:
            if row.wants_logits and 4 <= len(row.tokens) < 64 and len(row.tokens) != 6:
                out[row.seat] = out[row.seat] * (1 + 1e-6)
        return out


class _Neighbours(FakeEngine):
    """Rounds differently when rows of several seats are long."""

    def decode(self, rows: Sequence[Row]) -> dict[int, Logits]:
        out = super().decode(rows)
        if sum(len(row.tokens) > 1 for row in rows) > 1:
            return {seat: logits * (1 + 1e-6) for seat, logits in out.items()}
        return out


class _Forgetful(FakeEngine):
    """Cannot drop the last tokens of a seat, as recurrent models cannot."""

    def trim(self, seat: int, length: int) -> int:
        return super().trim(seat, length if length == super().length(seat) else 0)


def _settings(seats: int) -> EngineSettings:
    return EngineSettings(path="fake", seats=seats)


def test_an_exact_engine_may_draft_with_any_number_of_seats() -> None:
    for seats in (1, 2, 8):
        engine = FakeEngine(_settings(seats))
        assert draft_limit(engine) == DRAFT_TOKENS
        assert not any(engine.length(seat) for seat in range(seats))


def test_an_engine_whose_logits_change_may_not() -> None:
    for kind in (_Blocks, _Neighbours, _Forgetful):
        assert draft_limit(kind(_settings(8))) == 0


def test_a_window_too_short_for_the_test_allows_no_drafts() -> None:
    assert draft_limit(FakeEngine(EngineSettings(path="fake", context_tokens=64))) == 0
