"""The trace of the scheduler, read page by page."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from aios.kernel import calls
from aios.kernel.calls import trace_page
from aios.kernel.model.model import Model
from aios.kernel.scheduler import scheduler
from aios.syscalls.types.trace import SliceRecord, TraceRequest

from .rig import open_rig


def _reads_all(models: list[Model], between: Callable[[], None], clear: bool) -> list[int]:
    """Steps of all slices, as a reader gets them page by page; they are told in their order."""
    told: list[int] = []
    seen: dict[str, tuple[int, int]] = {}
    for _ in range(1000):
        page = trace_page(models, TraceRequest(seen, clear))
        told += [one.steps for one in page.slices]
        if not page.more:
            return told
        seen = page.seen
        between()
    raise AssertionError("it never ends")


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_trace_that_grows_while_it_is_read_is_told_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, clear: bool
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(calls, "_PAGE_UNITS", 100)
    monkeypatch.setattr(scheduler, "_MAX_RECORDS", 60)
    numbers = itertools.count()
    with open_rig(tmp_path) as rig:
        models = [rig.models.find("fake:end=0"), rig.models.find("fake:end=1")]

        def grow(least: int = 0) -> None:
            for _ in range(draw.randint(least, 6)):
                record = SliceRecord("m", 0.0, 0.0, next(numbers), [(1, 1, 1, 0)])
                draw.choice(models).scheduler.records.append(record)

        for _ in range(15):
            grow(5)
        told = _reads_all(models, grow, clear)
        lost = sum(model.scheduler.records.dropped for model in models)
        assert len(told) == len(set(told)), "nothing twice"
        assert len(told) >= next(numbers) - lost
        if clear:
            assert _reads_all(models, grow, clear) == []
