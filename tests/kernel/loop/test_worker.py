"""The worker thread: order, errors, and what close leaves."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker


def test_jobs_run_in_order_and_come_back_to_the_callers_thread() -> None:
    loop = Loop()
    worker = Worker(loop, "test")
    seen: list[tuple[int, bool, bool]] = []
    here = threading.get_ident()

    def done(number: int, outcome: Outcome[int]) -> None:
        seen.append((number, outcome.result() == here, threading.get_ident() == here))
        if number == 99:
            loop.stop()

    for number in range(100):
        worker.submit(threading.get_ident, partial(done, number))
    loop.run()
    worker.close()
    loop.close()
    assert seen == [(number, False, True) for number in range(100)]


def test_an_error_is_the_outcome_and_close_finishes_the_queue() -> None:
    loop = Loop()
    worker = Worker(loop, "test")
    got: list[Outcome[object]] = []
    worker.submit(lambda: 1 / 0, got.append)
    worker.submit(lambda: None, got.append)
    worker.close()
    loop.close()
    with pytest.raises(ZeroDivisionError):
        got[0].result()
    assert got[1].result() is None
