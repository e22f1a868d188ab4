"""The use of processors by others, from this machine's own counters."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from aios.hw.machine.cpu_use import OtherUse, busy_s

STAT = """\
cpu  40 3 20 900 17 0 0 9 5 0
cpu0 10 1 5 300 7 0 2 4 5 0
cpu1 30 2 15 600 10 1 0 5 0 0
intr 5 6
"""


def test_idle_waiting_and_guest_time_do_not_count() -> None:
    assert busy_s(STAT, frozenset({0})) == pytest.approx(0.211)
    assert busy_s(STAT, frozenset({0, 1})) == pytest.approx(0.211 + 0.512)
    assert busy_s(STAT, frozenset({7})) == 0.0


def test_own_time_is_that_of_this_process_alone() -> None:
    use = OtherUse()
    began_s, cpu_s = time.monotonic(), time.process_time()
    while time.process_time() - cpu_s < 0.2:
        pass
    passed_s = time.monotonic() - began_s
    whole = busy_s(Path("/proc/stat").read_text(), use.cpus)
    assert whole > 0.2
    assert 0.0 <= use.ask() <= len(use.cpus) + 0.02 / passed_s
    assert use.age_s() < passed_s
