"""Parking and restoring one context, against copying its bytes and recomputing it.

``python -m aios.bench.rig.parking SEED REPEATS`` is a process like a core. It prints one line of
JSON for each repeat: {arm: {figure: value}}.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aios.bench.rig.report import timed
from aios.hw.core.messages import Op
from aios.hw.core.seat_operations import SeatOperations
from aios.hw.engine.engine import EngineSettings, Row
from aios.hw.engine.image import image_bytes
from aios.hw.machine.arena import Arena
from aios.hw.models import names
from aios.hw.tuning.exact_settings import open_engine
from aios.hw.tuning.idle_work import find_settings
from aios.syscalls import paths

CONTEXT_TOKENS, LOOPS = 768, 9
_COLD = np.zeros(12 << 20, np.int64)
"""96 MiB, more than any cache holds: touching it evicts everything else."""

Figures = dict[str, dict[str, float]]


def main() -> None:
    """Measure and print."""
    seed, repeats = int(sys.argv[1]), int(sys.argv[2])
    settings = EngineSettings(
        path=names.resolve("default", Path()), seats=2, context_tokens=1024,
        cache_dir=str(paths.cache_dir()), look_up_tuned=False,
    )  # fmt: skip
    find_settings(settings)
    engine = open_engine(settings)
    arena = Arena(4 * image_bytes(engine.info, CONTEXT_TOKENS))
    operations = SeatOperations(engine, arena)
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1000, 20_000, CONTEXT_TOKENS).astype(np.int32)
    room = image_bytes(engine.info, CONTEXT_TOKENS)
    place = arena.allocate(room)
    copies = [arena.allocate(room), arena.allocate(room)]
    assert place and copies[0] and copies[1]
    save = Op("save", 0, place.offset, place.size_bytes, CONTEXT_TOKENS)
    load = Op("load", 1, place.offset, place.size_bytes, CONTEXT_TOKENS)
    source, target = (arena.view[c.offset : c.offset + c.size_bytes] for c in copies if c)
    for _ in range(repeats):
        engine.trim(0, 0)
        start_s = time.perf_counter()
        for at in range(0, CONTEXT_TOKENS, 128):
            engine.decode([Row(0, at, tokens[at : at + 128], False)])
        figures: Figures = {"recompute": {"seconds": time.perf_counter() - start_s}}
        size = operations.carry_out(save).size_bytes
        copy = functools.partial(np.copyto, target[:size], source[:size])
        times: dict[str, list[float]] = {"memcpy": [], "park": [], "restore": []}
        for _ in range(LOOPS):
            _timed(times["memcpy"], copy)
            _timed(times["park"], lambda: operations.carry_out(save))
            operations.wait()
            engine.trim(1, 0)
            _timed(times["restore"], lambda: operations.carry_out(load))
        for arm, seconds in times.items():
            taken = statistics.median(seconds)
            figures[arm] = {"seconds": taken, "gigabytes_per_s": size / taken / 1e9}
        print(json.dumps(figures), flush=True)
    operations.close()
    engine.close()
    arena.close()


def _timed(times: list[float], act: Callable[[], object]) -> None:
    """Time one action with cold caches, as after a step of decoding for other agents."""
    np.add(_COLD, 1, out=_COLD)
    times.append(timed(act))


if __name__ == "__main__":
    main()
