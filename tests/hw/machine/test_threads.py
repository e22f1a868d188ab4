"""Thread counts to try."""

from __future__ import annotations

import pytest

from aios.hw.machine.threads import thread_counts


def test_an_explicit_count_is_the_only_one() -> None:
    assert thread_counts(3) == [3]
    assert thread_counts(None)[-1] == 1


def test_the_tuned_count_is_tried_in_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 8)
    monkeypatch.setattr("psutil.Process.cpu_affinity", lambda self: list(range(16)))
    assert thread_counts(None) == [8, 4, 1]
    assert thread_counts(None, 16) == [16, 8, 4, 1]
    assert thread_counts(None, 6) == [8, 6, 4, 1]
    assert thread_counts(None, 1) == [8, 4, 1], "a count tuned on a busy machine does not bind"
    assert thread_counts(2, 6) == [2]
