"""Which cached image leaves first: by size, cost and use, compared with a naive reference."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios.hw.machine.arena import PAGE_BYTES, Arena, Extent
from aios.kernel.context.sequence import Image
from aios.kernel.context.store import KvStore


class _Home:
    """Records what the store drops."""

    def __init__(self) -> None:
        self.forgotten: list[Image] = []

    def forget(self, image: Image) -> None:
        self.forgotten.append(image)


class _Owner:
    """A parked sequence."""

    image: Image | None = None


def _store(pages: int, disk_pages: int = 0, folder: Path | None = None) -> KvStore:
    return KvStore(Arena(pages * PAGE_BYTES), folder, disk_pages * PAGE_BYTES, lambda path: None)


def _cached(store: KvStore, home: _Home, tokens: int, pages: int = 1) -> Image:
    image = Image(array("i", [0]) * tokens, tokens, home)
    assert store.add(image, pages * PAGE_BYTES, _spill)
    return image


def _spill(image: Image, extent: Extent, path: str) -> None:
    """Do nothing: the operation itself does not matter here."""


def test_the_image_that_is_cheaper_to_compute_goes_first() -> None:
    """Per byte, long contexts cost more: attention grows with their length."""
    store, home = _store(4), _Home()
    images = [_cached(store, home, tokens) for tokens in (4000, 100, 8000, 2000)]
    for _ in images:
        _cached(store, home, 100_000)
    assert [image.length for image in home.forgotten] == [100, 2000, 4000, 8000]
    store.close()


def test_size_alone_saves_no_image_and_room_is_made_until_there_is_enough() -> None:
    """Large and small images of one cost per byte go by age, both if need be."""
    store, home = _store(8), _Home()
    small, large, third = (_cached(store, home, 100, pages) for pages in (1, 5, 2))
    _cached(store, home, 100, 2)
    assert home.forgotten == [small, large]
    assert third in store.images
    store.close()


def test_among_equals_the_least_recently_used_goes_first() -> None:
    store, home = _store(3), _Home()
    first, second, third = (_cached(store, home, 100) for _ in range(3))
    store.used(first)
    store.used(third)
    store.used(first)
    fourth = _cached(store, home, 100)
    store.used(third)
    for _ in range(3):
        _cached(store, home, 100)
    assert home.forgotten == [second, first, fourth, third]
    store.close()


def test_a_costly_image_that_is_never_used_goes_in_the_end() -> None:
    """Each image that leaves turns the clock, which favours images that come later."""
    store, home = _store(2), _Home()
    dear = _cached(store, home, 40_000)  # worth about eleven cheap ones
    cheap = [_cached(store, home, 0) for _ in range(20)]
    assert 5 < home.forgotten.index(dear) < 15
    assert [image for image in home.forgotten if image is not dear] == cheap[: len(cheap) - 2]
    store.close()


def test_an_image_in_use_is_passed_over_and_goes_later() -> None:
    store, home = _store(2), _Home()
    busy, dear = _cached(store, home, 10), _cached(store, home, 20_000)
    store.pin(busy)
    later = _cached(store, home, 10)
    assert home.forgotten == [dear]
    store.unpin(busy)
    last = _cached(store, home, 10)
    assert home.forgotten == [dear, busy]
    dearer = _cached(store, home, 20_000)
    assert home.forgotten == [dear, busy, later], "the clock did not go back"
    assert {last, dearer} == store.images
    store.close()


def test_parked_images_evict_cached_ones_and_are_never_evicted(tmp_path: Path) -> None:
    store, home = _store(2, 1, tmp_path / "kv"), _Home()
    short, long = _cached(store, home, 10), _cached(store, home, 1000)
    for expected in ([short], [short], [short, long]):
        parked = Image(array("i", [0]), 1, home, _Owner())  # type: ignore[arg-type]
        assert store.add(parked, PAGE_BYTES, _spill)
        assert home.forgotten == expected, "the long one goes to a file before it goes for good"
    refused = Image(array("i", [0]), 1, home, _Owner())  # type: ignore[arg-type]
    assert not store.add(refused, PAGE_BYTES, _spill)
    assert not store.add(Image(array("i", [0]), 1, home), PAGE_BYTES, _spill)
    assert home.forgotten == [short, long] and store.check() == []
    store.close()


# ---------------------------------------------------------------------------- the reference


class _Naive:
    """GreedyDual as it is in books: every entry in one list, looked through each time.

    An entry's heat is the tier's clock when it came or was last used, and its cost over its size;
    the coldest goes, of equals the one whose last use is longest ago, and the clock is its heat.
    """

    def __init__(self, ram_bytes: int, disk_bytes: int) -> None:
        self.arena, self.disk_bytes, self.disk_used = Arena(ram_bytes), disk_bytes, 0
        self.clock = {"ram": 0.0, "disk": 0.0}
        self.heat: dict[Image, tuple[float, int]] = {}
        self.tier: dict[Image, str] = {}
        self.extents: dict[Image, Extent] = {}
        self.uses = 0
        self.gone: list[Image] = []
        self.spilled: list[Image] = []

    def put(self, image: Image, tier: str) -> None:
        self.uses += 1
        self.tier[image] = tier
        self.heat[image] = (self.clock[tier] + 1 + image.length / 4096, self.uses)

    def coldest(self, tier: str) -> Image | None:
        those = [i for i in self.heat if self.tier[i] == tier and not i.pins]
        if not those:
            return None
        found = min(those, key=lambda image: self.heat[image])
        self.clock[tier] = max(self.clock[tier], self.heat.pop(found)[0])
        return found

    def add(self, image: Image, room: int, parked: bool) -> bool:
        while not (extent := self.arena.allocate(room)):
            victim = self.coldest("ram")
            if victim is None:
                break
            size = self.extents[victim].size_bytes
            if victim.length >= 128 and self.disk_room(size):
                self.disk_used += size
                self.arena.free(self.extents.pop(victim))
                self.put(victim, "disk")
                self.spilled.append(victim)
            else:
                self.remove(victim)
        if extent:
            self.extents[image] = extent
        elif not (parked and self.disk_room(room)):
            return False
        else:
            self.disk_used += room
        self.tier[image] = "ram" if extent else "disk"
        if not parked:
            self.put(image, "ram")
        return True

    def disk_room(self, size: int) -> bool:
        while self.disk_used + size > self.disk_bytes:
            victim = self.coldest("disk") if size <= self.disk_bytes else None
            if victim is None:
                return False
            self.remove(victim)
        return True

    def remove(self, image: Image) -> None:
        """Drop an image of the reference."""
        self.gone.append(image)
        self.heat.pop(image, None)
        extent = self.extents.pop(image, None)
        if extent:
            self.arena.free(extent)
        elif image in self.tier:
            self.disk_used -= image.size_bytes
        self.tier.pop(image, None)


@pytest.mark.parametrize("seed", range(30))
def test_the_order_is_that_of_a_naive_reference(tmp_path: Path, seed: int) -> None:
    """Random images come, are used, pinned, parked and removed; both drop the same ones."""
    rng = random.Random(seed)
    ram, disk = rng.randint(4, 40) * PAGE_BYTES, rng.choice((0, 6, 30)) * PAGE_BYTES
    home, folder = _Home(), tmp_path / "kv" if disk else None
    store, naive = KvStore(Arena(ram), folder, disk, lambda path: None), _Naive(ram, disk)
    lengths = [rng.randint(1, 9000) for _ in range(rng.choice((1, 4, 300)))]
    spilled: list[Image] = []
    kept: list[Image] = []
    for image in _arrivals(rng, home, lengths):
        room = rng.randint(1, 4) * PAGE_BYTES
        there = store.add(image, room, lambda i, extent, path: spilled.append(i))
        assert there == naive.add(image, room, image.owner is not None)
        if there:
            kept.append(image)
        for _ in range(rng.randint(0, 3)):
            if kept:
                _something(rng, store, naive, rng.choice(kept))
        kept = [i for i in kept if i in store.images]
        assert home.forgotten == naive.gone, f"after {len(home.forgotten)} had left"
        assert spilled == naive.spilled and store.disk_used_bytes == naive.disk_used
    assert len(home.forgotten) > 100 and store.check() == []
    store.close()
    naive.arena.close()


def _arrivals(rng: random.Random, home: _Home, lengths: list[int]) -> Iterator[Image]:
    for _ in range(600):
        length = rng.choice(lengths)
        owner = _Owner() if rng.random() < 0.15 else None
        yield Image(array("i", [0]) * length, length, home, owner)  # type: ignore[arg-type]


def _something(rng: random.Random, store: KvStore, naive: _Naive, image: Image) -> None:
    if image not in store.images:
        return
    what = rng.choices(("use", "pin", "unpin", "remove"), (6, 1, 3, 0.5 + bool(image.owner)))[0]
    if what == "use":
        store.used(image)
        if image in naive.heat:
            naive.put(image, naive.tier[image])
    elif what == "pin" and image.pins < 2:
        store.pin(image)
    elif what == "unpin" and image.pins:
        store.unpin(image)
    elif what == "remove" and not image.pins:
        naive.remove(image)
        store.remove(image)
