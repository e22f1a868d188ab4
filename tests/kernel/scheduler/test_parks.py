"""A day's worth of parks through the whole path of a context: nothing is left, nothing wrong.

Context manager, store and operations are the kernel's, the seat operations are the core's with the
arena mapped a second time; only the choice of who runs is made here, at random. The fake engine's
running hash of a seat's tokens tells KV that was lost, mixed up or restored wrongly.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from array import array
from pathlib import Path

import numpy as np
import pytest

from aios.hw.core.seat_operations import SeatOperations
from aios.hw.engine.engine import EngineSettings, Row
from aios.hw.engine.fake import FakeEngine
from aios.hw.engine.sampling import SamplingParams
from aios.hw.machine.arena import PAGE_BYTES, Arena, Extent, SharedMemory
from aios.kernel.context.manager import ContextManager
from aios.kernel.context.store import KvStore
from aios.kernel.scheduler.account import Account
from aios.kernel.scheduler.request import Request

PARKS, SEED = 100_000, 20261125
SEATS, ROWS, LIVING = 3, 2, 16
WINDOW = 240
RAM_BYTES, DISK_BYTES = 40 * PAGE_BYTES, 9 * PAGE_BYTES
_ACCOUNT = Account(1)
_PARAMS = SamplingParams(max_tokens=64, seed=1)


class _Day:
    """One model, the requests that want it, and a core that is replaced now and then."""

    def __init__(self, folder: Path) -> None:
        self.rng = random.Random(SEED)
        self.store = KvStore(Arena(RAM_BYTES), folder, DISK_BYTES)
        self.memory = SharedMemory(self.store.arena.fd, self.store.arena.size_bytes)
        self.start_core()
        self.context = ContextManager(self.store, self.engine.info)
        self.living: list[Request] = []
        self.hashes: dict[int, list[int]] = {}
        """Hashes of every prefix of each living request, computed by the test."""
        self.beginnings = [self.rng.choices(range(256), k=150) for _ in range(6)]
        self.folder, self.asked, self.parks = folder, 0, 0
        self.seen = dict.fromkeys(
            ("load", "save", "spill", "copy", "to file", "from file", "failed", "lost"), 0
        )

    def start_core(self) -> None:
        self.engine = FakeEngine(EngineSettings(path="fake", context_tokens=WINDOW, seats=SEATS))
        self.operations = SeatOperations(self.engine, self.memory)

    def arrive(self) -> None:
        """Add a request; most share a prefix with others."""
        rng = self.rng
        self.asked += 1
        request = Request(
            id=self.asked, pid=self.asked, name="a", rank=1, nice=0, account=_ACCOUNT,
            params=_PARAMS,
        )  # fmt: skip
        common = rng.choice(self.beginnings)[: rng.choice((0, 0, 16, 32, 32, 48, 150))]
        request.tokens = array("i", [*common, *rng.choices(range(256), k=rng.randint(1, 40))])
        request.prompt_tokens = len(request.tokens)
        self.hashes[request.id] = [_beginning_hash()]
        self.living.append(request)

    def leave(self, request: Request) -> None:
        """End or cancel a request, wherever it is."""
        self.parks += request.parks
        self.context.release(request)
        self.living.remove(request)
        del self.hashes[request.id]

    def slice(self) -> None:
        """Run a slice with its operations."""
        rng, context, engine = self.rng, self.context, self.engine
        chosen = rng.sample(self.living, ROWS)
        coldness = {request.id: rng.random() for request in self.living}
        ops = context.seat_all(chosen, lambda request: (coldness[request.id],))
        results, failed = [], set()
        for op in ops:
            if op.kind == "load" and op.path and rng.random() < 0.02:
                os.truncate(op.path, 100)  # a damaged file
            results.append(self.operations.carry_out(op))
            self._count(op.kind, op.path, results[-1].ok)
            if not results[-1].ok:
                failed.add(op.seat)
        if rng.random() < 0.02:
            gone = rng.choice(chosen)  # while the core is busy with it
            chosen.remove(gone)
            self.leave(gone)
        for request in sorted(chosen, key=lambda r: r.seat or 0):
            assert request.seat is not None
            self._run(request, request.seat, 0 if request.seat in failed else request.length)
        context.settle(results, 0.0)
        for request in chosen:
            assert request.seat is not None
            context.ran(request, engine.length(request.seat))
            request.computed = max(request.computed, request.length)

    def _count(self, kind: str, path: str, ok: bool) -> None:
        if kind != "trim":
            self.seen[kind] += 1
        self.seen["to file"] += kind == "save" and bool(path)
        self.seen["from file"] += kind == "load" and bool(path)
        self.seen["failed"] += not ok

    def _run(self, request: Request, seat: int, expected: int) -> None:
        """Check what the seat holds, then compute the missing tokens and one more."""
        engine, rng = self.engine, self.rng
        there = engine.length(seat)
        assert there == expected, "the seat holds what the kernel thinks"
        self._verify(request, seat)
        missing = np.array(request.tokens[there:], np.int32)
        if len(missing):
            engine.decode([Row(seat, there, missing, False)])
        self._verify(request, seat)
        request.tokens.extend(rng.choices(range(256), k=rng.randint(1, 12)))

    def _verify(self, request: Request, seat: int) -> None:
        length, known = self.engine.length(seat), self.hashes[request.id]
        for token in request.tokens[len(known) - 1 : length]:
            known.append(_next_hash(known[-1], token))
        assert self.engine._hash[seat] == known[length], "the KV is of other tokens"

    def lose_core(self) -> None:
        """Kill the core in the middle of its work."""
        chosen = self.rng.sample(self.living, ROWS)
        ops = self.context.seat_all(chosen, lambda request: (request.id,))
        for op in ops[: self.rng.randint(0, len(ops))]:
            self.operations.carry_out(op)
        self.operations.close()
        self.context.lost()
        self.start_core()
        self.seen["lost"] += 1

    def sizes(self) -> list[int]:
        """Return the sizes of all that could grow."""
        store, context = self.store, self.context
        return [
            len(store.images), len(store._leaving), len(store._kept), len(store.arena._free),
            len(store.arena._used), len(store._in_memory._heap), len(store._on_disk._heap),
            len(context._index), len(context._operations._planned), len(self.engine._tokens),
            len(os.listdir("/proc/self/fd")), len(list(self.folder.iterdir())),
        ]  # fmt: skip

    def check(self) -> None:
        assert self.store.check() == [] == self.context.check(self.living)
        files = sum(1 for i in self.store.images | self.store._leaving if i.path)
        assert len(list(self.folder.iterdir())) == files

    def end(self) -> None:
        """End all requests and drop all caches; check that nothing is left."""
        for request in list(self.living):
            self.leave(request)
        self.check()
        for image in list(self.store.images):
            self.store.remove(image)
        for seat in self.context._seats:
            self.context._empty(seat)
        self.check()
        assert not self.hashes and not self.context.busy and not len(self.context._index)
        assert not self.store.images and not self.store._leaving and not self.store.arena._used
        assert self.store.arena._free == [Extent(0, self.store.arena.size_bytes)]
        assert (self.store.arena.used_bytes, self.store.disk_used_bytes) == (0, 0)
        assert list(self.folder.iterdir()) == []
        self.operations.close()
        self.store.close()


def _beginning_hash() -> int:
    return FakeEngine(EngineSettings(path="fake", seats=1))._hash[0]


def _next_hash(before: int, token: int) -> int:
    mixed = (before ^ (token + 1)) * 0x9E3779B97F4A7C15 % 2**64
    return mixed ^ (mixed >> 29)


def _blocks() -> int:
    """Blocks of memory that Python objects hold."""
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.timeout(900)
def test_a_hundred_thousand_parks_through_the_whole_path(tmp_path: Path) -> None:
    """Requests come, grow, are parked, restored, computed again, cancelled and ended."""
    print(f"seed {SEED}")
    descriptors = len(os.listdir("/proc/self/fd"))
    day = _Day(tmp_path / "kv")
    most = [0] * len(day.sizes())
    slices = parks = early_blocks = 0
    while parks < PARKS:
        while len(day.living) < LIVING:
            day.arrive()
        day.slice()
        slices += 1
        for request in [r for r in day.living if len(r.tokens) > WINDOW - 16]:
            day.leave(request)
        if day.rng.random() < 0.1:
            day.leave(day.rng.choice(day.living))
        if slices % 2000 == 0:
            day.lose_core()
        if slices % 500 == 0:
            day.check()
            parks = day.parks + sum(request.parks for request in day.living)
            sizes = day.sizes()
            if parks < PARKS // 4:
                most = [max(pair) for pair in zip(most, sizes, strict=True)]
                early_blocks = _blocks()
            else:
                assert all(now <= 2 * before + 8 for before, now in zip(most, sizes, strict=True))
    assert _blocks() - early_blocks < 50_000
    assert min(day.seen.values()) >= 20, f"each kind happened: {day.seen}"
    assert day.seen["load"] > 0.9 * PARKS, "nearly all were restored, not computed again"
    day.end()
    del day, request
    gc.collect()  # the mappings have descriptors of their own
    assert len(os.listdir("/proc/self/fd")) <= descriptors
