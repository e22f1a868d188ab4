"""LRU-2: which note leaves RAM first."""

from __future__ import annotations

import random

import pytest

from aios.kernel.memory.lru_k import LruK


class Naive:
    """LRU-2 as its definition says: all uses kept, the order computed from scratch."""

    def __init__(self) -> None:
        self.now = 0
        self.uses: dict[int, list[int]] = {}
        self.here: set[int] = set()

    def use(self, key: int) -> None:
        self.now += 1
        self.uses.setdefault(key, []).append(self.now)
        self.here.add(key)

    def drop(self, key: int, remember: bool) -> None:
        self.here.discard(key)
        if not remember:
            self.uses.pop(key, None)

    def victim(self) -> int | None:
        def order(key: int) -> tuple[int, int]:
            uses = self.uses[key]
            return (uses[-2] if len(uses) > 1 else 0, uses[-1])

        return min(self.here, key=order, default=None)


@pytest.mark.parametrize("seed", range(20))
def test_lru_k_is_its_definition(seed: int) -> None:
    rng = random.Random(seed)
    real, naive = LruK[int](), Naive()
    for _ in range(2000):
        key = min(int(rng.expovariate(0.08)), 60)
        action = rng.random()
        if action < 0.7:
            real.use(key)
            naive.use(key)
        elif action < 0.8:
            real.drop(key)
            naive.drop(key, False)
        else:
            victim = real.victim()
            assert victim == naive.victim()
            if victim is not None:
                real.drop(victim, remember=True)
                naive.drop(victim, True)
        assert len(real) == len(naive.here)


def test_a_scan_drives_out_nothing_that_is_used_again() -> None:
    order = LruK[str]()
    for name in ("hot", "warm", "hot", "warm"):
        order.use(name)
    for number in range(100):
        order.use(f"scan {number}")
    for number in range(100):
        victim = order.victim()
        assert victim == f"scan {number}"
        order.drop(victim)
    assert order.victim() == "hot"


def test_what_was_dropped_is_remembered_within_bounds() -> None:
    order = LruK[int](most_remembered=10)
    for key in range(100):
        order.use(key)
        order.drop(key, remember=True)
    assert len(order._gone) == 10 and order.victim() is None
    order.use(99)
    order.use(98)
    order.use(97)
    order.use(99)
    assert order.victim() == 97, "its use before it was dropped counts, the oldest of these"
