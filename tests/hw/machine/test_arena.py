"""The arena: its accounts under random use, and its shared memory."""

from __future__ import annotations

import random

import pytest

from aios.hw.machine.arena import PAGE_BYTES, Arena, Extent, SharedMemory


def test_random_use_keeps_the_accounts_right() -> None:
    arena, rng = Arena(1 << 20), random.Random(5)
    held: list[Extent] = []
    for _ in range(3000):
        if held and rng.random() < 0.5:
            arena.free(held.pop(rng.randrange(len(held))))
        else:
            extent = arena.allocate(rng.randint(1, 60_000))
            if extent:
                held.append(extent)
        assert arena.check() == []
    for extent in held:
        arena.free(extent)
    assert arena.check() == [] and arena.used_bytes == 0
    assert arena.allocate(1 << 20) is not None, "free neighbours were merged"
    arena.close()


def test_freeing_twice_raises() -> None:
    arena = Arena(PAGE_BYTES * 4)
    extent = arena.allocate(1)
    assert extent
    arena.free(extent)
    with pytest.raises(KeyError):
        arena.free(extent)
    assert arena.allocate(PAGE_BYTES * 5) is None
    arena.close()


def test_mappings_share_memory_and_trim_empties_it() -> None:
    arena = Arena(PAGE_BYTES)
    other = SharedMemory(arena.fd, PAGE_BYTES)
    extent = arena.allocate(8)
    assert extent
    arena.at(extent.offset, 8)[:] = b"12345678"
    assert bytes(other.at(extent.offset, 8)) == b"12345678"
    with pytest.raises(ValueError, match="outside"):
        other.at(PAGE_BYTES - 4, 8)
    arena.free(extent)
    arena.trim()
    assert bytes(other.at(0, 8)) == bytes(8)
    arena.close()
