"""Contexts in seats, memory and files: shared, parked, spilled, damaged, lost, but never wrong.

Everything runs on real cores in this process (see rig.py) and is compared with a run alone.
"""

from __future__ import annotations

import itertools
import os
import random
from array import array
from pathlib import Path

import pytest

from aios.hw.engine.engine import Rung
from aios.hw.machine.arena import Arena
from aios.kernel.context.prefix import PrefixIndex
from aios.kernel.context.sequence import Image
from aios.kernel.context.store import KvStore
from aios.syscalls.errors import Cancelled
from tests.kernel.rig import GRID, REPLAY, open_rig

COMMON = "the common beginning of all prompts, long enough to be worth sharing among them. " * 3


@pytest.mark.parametrize(
    ("rung", "model"),
    [
        *itertools.product([None, GRID], ["fake:end=0", "fake:end=0,frozen=1"]),
        (None, "fake:end=0,window=80"),
        *itertools.product([REPLAY], ["fake:end=0,shaped=1", "fake:end=0,shaped=1,frozen=1"]),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_tokens_are_those_of_running_alone(
    tmp_path: Path, seed: int, model: str, rung: Rung | None
) -> None:
    """Prompts that share prefixes, little room, cancelled requests, cores killed at any command."""
    rng = random.Random(seed)
    ram, disk = rng.choice([(1 << 20, 0), (3 << 12, 1 << 20), (1 << 15, 1 << 16), (1 << 18, 0)])
    with open_rig(tmp_path, model, seats=rng.randint(1, 4), quantum=rng.randint(1, 9), ram=ram,
                  disk=disk, chunk=rng.choice([8, 64]), rung=rung,
                  name=rng.choice(["rr", "fair", "mlfq"])) as rig:  # fmt: skip
        asked, said = [], [COMMON]
        for _ in range(20):
            told = rng.choice(said)[: rng.choice([40, 100, 200, 400])]
            request = rig.ask(told + f"{rng.random()}", tokens=rng.randint(1, 24))
            asked.append(request)
            for _ in range(rng.randint(0, 12)):
                rig.step()
                rig.check()
            done = [r for r in asked if r.id in rig.outcomes]
            if done and rng.random() < 0.5:  # a later prompt continues from there
                last = rng.choice(done)
                said.append("".join(chr(t) for t in last.tokens[1:] if t < 128))
            if rng.random() < 0.1 and request.id not in rig.outcomes:
                rig.model.cancel(request, Cancelled("by the test"))
                asked.remove(request)
            if rng.random() < 0.08:
                rig.core.kill()
        rig.wait(lambda: all(r.id in rig.outcomes for r in asked))
        rig.run()
        for request in asked:
            assert rig.reply(request).tokens == rig.alone(request), (seed, request.id)
            usage = rig.reply(request).usage
            assert 0 <= usage.cached_tokens < usage.prompt_tokens


@pytest.mark.parametrize("rung", [None, GRID], ids=["mixed", "grid"])
def test_a_common_beginning_is_computed_once(tmp_path: Path, rung: Rung | None) -> None:
    with open_rig(tmp_path, seats=8, quantum=8, rung=rung, ram=1 << 22) as rig:
        asked = [rig.ask(COMMON + f" agent {n}", tokens=4) for n in range(16)]
        rig.run()
        cached = sorted(rig.reply(request).usage.cached_tokens for request in asked)
        assert cached[0] == 0, "one request had to compute it"
        grid = 64 if rung else 1
        assert cached[1] >= (len(COMMON) + 1) // grid * grid, "and no other did"
        prompts = sum(len(r.tokens[: r.prompt_tokens]) for r in asked)
        computed = sum(
            row[3] for piece in rig.model.scheduler.records.since(0) for row in piece.rows
        )
        assert computed <= prompts - sum(cached) + 16
        assert all(rig.reply(r).tokens == rig.alone(r) for r in asked)


def test_the_next_turn_computes_new_tokens_only_and_branches_share(tmp_path: Path) -> None:
    with open_rig(tmp_path, seats=2, ram=1 << 22) as rig:
        first = rig.ask(COMMON, tokens=10)
        rig.run()
        said = COMMON + rig.reply(first).text
        for n in range(6):  # others run in between, as during a tool call
            rig.ask(f"{n} something else, and much of it " * 4, tokens=4)
        rig.run()
        branches = [rig.ask(said + f" branch {n}", tokens=6) for n in range(4)]
        rig.run()
        for branch in branches:
            assert rig.reply(branch).usage.cached_tokens >= len(said) - 1
            assert rig.reply(branch).tokens == rig.alone(branch)


def test_tokens_lost_with_a_core_do_not_count_as_cached(tmp_path: Path) -> None:
    with open_rig(tmp_path, seats=2, ram=1 << 12) as rig:
        rig.ask(COMMON, tokens=4)
        rig.run()
        second = rig.ask(COMMON + "and more", tokens=4)
        rig.run(lambda: second.phase == "running")
        assert second.cached_tokens
        rig.core.kill()
        rig.wait(lambda: second.id in rig.outcomes)
        assert rig.reply(second).usage.cached_tokens == 0


def test_tokens_of_a_damaged_cache_do_not_count_as_cached(tmp_path: Path) -> None:
    """Not even when the reply comes before the slice is over."""
    with open_rig(tmp_path, seats=1, quantum=50, ram=1 << 20) as rig:
        for prompt in (COMMON, "something else " * 16):
            rig.ask(prompt, tokens=2)
            rig.run()
        (image,) = (image for image in rig.store.images if image.extent)
        assert image.extent
        rig.store.arena.view[image.extent.offset + image.size_bytes // 2] ^= 1
        again = rig.ask(COMMON, tokens=2)
        rig.run()
        assert rig.reply(again).tokens == rig.alone(again)
        assert rig.reply(again).usage.cached_tokens == 0


def test_a_cache_is_not_evicted_by_the_request_parked_for_it(tmp_path: Path) -> None:
    """There is room for one image: the source of the newcomer's context, which needs a seat."""
    with open_rig(tmp_path, seats=1, ram=5 << 12, name="rr") as rig:
        rig.ask(COMMON, tokens=2)
        rig.run()
        rig.ask("something else " * 16, tokens=60)  # the first one's context becomes an image
        rig.run(lambda: rig.store.arena.used_bytes > 0)
        third = rig.ask(COMMON + "again", tokens=4)
        rig.run()
        assert rig.reply(third).tokens == rig.alone(third)


def test_parked_images_outlive_the_core(tmp_path: Path) -> None:
    with open_rig(tmp_path, seats=1, quantum=4) as rig:
        asked = [rig.ask(f"{n} " * 40, tokens=30) for n in range(4)]
        rig.run(lambda: sum(r.image is not None for r in asked) == 3)
        rig.run(lambda: rig.core.work() is False)
        parked = [r for r in asked if r.image]
        before = {r.id: r.recomputes for r in parked}
        rig.core.kill()
        rig.wait(lambda: len(rig.outcomes) == 4)
        restored = [r for r in parked if r.recomputes == before[r.id]]
        assert len(restored) >= len(parked) - 1, "except the one being moved"
        assert all(rig.reply(r).tokens == rig.alone(r) for r in asked)


@pytest.mark.parametrize("point", range(16))
def test_a_request_with_the_same_prefix_leaves_a_parked_image_to_its_owner(
    tmp_path: Path, point: int
) -> None:
    """A core's death costs only the request in the seat and the one being moved."""
    with open_rig(tmp_path, seats=1, quantum=4, chunk=64, name="fair") as rig:
        asked = [rig.ask("x" * 400, tokens=30) for _ in range(4)]
        for _ in range(point):
            rig.core.work()
            rig.loop.turn(0)
        rig.core.kill()
        rig.wait(lambda: len(rig.outcomes) == 4)
        assert sum(r.recomputes for r in asked) <= 2
        assert all(rig.reply(r).tokens == rig.alone(r) for r in asked)


@pytest.mark.parametrize("point", range(0, 60, 3))
def test_a_core_may_die_at_any_command(tmp_path: Path, point: int) -> None:
    with open_rig(tmp_path, seats=2, quantum=3, ram=6 << 12, disk=1 << 16) as rig:
        asked = [rig.ask(COMMON[: 60 * (n % 3)] + f"{n}", tokens=12) for n in range(5)]
        for _ in range(point):
            rig.core.work()
            if point % 2:
                rig.loop.turn(0)
        rig.core.kill()
        rig.wait(lambda: len(rig.outcomes) == 5)
        rig.run()
        assert all(rig.reply(r).tokens == rig.alone(r) for r in asked)
        assert rig.model.core.restarts == 1


# ---------------------------------------------------------------------------- tiers


def test_contexts_move_from_seats_to_memory_to_files_to_nothing(tmp_path: Path) -> None:
    """Twelve long contexts, room for a few images in each tier: none fails, budgets hold."""
    with open_rig(tmp_path, seats=1, quantum=2, ram=3 << 15, disk=4 << 15) as rig:
        asked = [rig.ask(f"{n:02} " * 150, tokens=10) for n in range(12)]
        most = [0, 0]
        while rig.step():
            rig.check()
            files = sum(f.stat().st_size for f in (tmp_path / "kv").iterdir())
            most = [max(most[0], rig.store.arena.used_bytes), max(most[1], files)]
            assert files <= 4 << 15
        assert most[0] > 2 << 15 and most[1] > 1 << 15, "both tiers were used"
        assert all(rig.reply(r).tokens == rig.alone(r) for r in asked)
        assert any(r.recomputes for r in asked) and any(not r.recomputes for r in asked)


@pytest.mark.parametrize("how", ["damaged", "truncated", "missing", "foreign", "swapped", "huge"])
def test_bad_files_are_noticed_and_computed_again(tmp_path: Path, how: str) -> None:
    with open_rig(tmp_path, seats=1, quantum=2, ram=1 << 12, disk=1 << 20) as rig:
        asked = [rig.ask(f"{n} " * 100, tokens=10) for n in range(3)]
        rig.run(lambda: len(list((tmp_path / "kv").glob("*.kv"))) == 2)
        for path in (tmp_path / "kv").glob("*.kv"):
            data = bytearray(path.read_bytes())
            if how == "damaged":
                data[len(data) // 2] ^= 1
            elif how == "truncated":
                del data[len(data) // 2 :]
            elif how == "foreign":
                data[8:16] = os.urandom(8)
            elif how == "swapped":  # a good image of another context
                data[16:24] = os.urandom(8)
            path.write_bytes(data)
            if how == "missing":
                path.unlink()
            elif how == "huge":
                os.truncate(path, 1 << 40)
        rig.run()
        assert all(rig.reply(r).tokens == rig.alone(r) for r in asked)
        assert sum(r.recomputes for r in asked) >= 1


def test_a_full_disk_costs_recomputation_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_rig(tmp_path, seats=1, quantum=2, ram=1 << 12, disk=1 << 20) as rig:
        asked = [rig.ask(f"{n} " * 100, tokens=10) for n in range(3)]
        rig.run(lambda: bool(rig.cores and rig.cores[0].engine))
        (tmp_path / "kv").rmdir()  # from now on no file can be written
        rig.run()
        assert all(rig.reply(r).tokens == rig.alone(r) for r in asked)
        failed = [op for op, result in rig.core.ops if op.path and not result.ok]
        assert failed and caplog.text.count("cannot be written to") == 1
        (tmp_path / "kv").mkdir()


def test_spills_race_with_other_models_saves(tmp_path: Path) -> None:
    """Two models share a small arena: a place that one frees by a spill is at once the other's,
    before or after the file is written."""
    for seed in range(6):
        rng = random.Random(seed)
        with open_rig(tmp_path, seats=1, quantum=3, ram=1 << 15, disk=1 << 18) as rig:
            asked = []
            for n in range(16):
                model = rng.choice(["fake:end=0", "fake:end=0,ctx=1024"])
                asked.append(rig.ask(f"{rng.choice('xyz')} " * 100 + f"{n}", model, tokens=6))
                for _ in range(rng.randint(0, 6)):
                    rng.choice(rig.cores).work()
                    rig.loop.turn(0)
                    rig.check()
            rig.run()
            assert all(rig.reply(r).tokens == rig.alone(r) for r in asked), seed


def test_a_hundred_thousand_parks_leave_nothing_behind(tmp_path: Path) -> None:
    """The store's accounts hold under random operations. Seed 7."""
    rng, folder = random.Random(7), tmp_path / "kv"
    files: dict[str, int] = {}

    def delete(path: str) -> None:
        files.pop(path, None)

    store = KvStore(Arena(1 << 20), folder, 1 << 20, delete)
    index: PrefixIndex[Image] = PrefixIndex()
    home = type("Home", (), {"forget": staticmethod(index.remove)})()
    parked, under_way = list[Image](), list[Image]()
    owner = type("Owner", (), {})()

    def spill(image: Image, extent: object, path: str) -> None:
        store.pin(image)
        files[path] = 1
        under_way.append(image)

    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(100_000):
        tokens = array("i", rng.choices(range(9), k=rng.randint(1, 80)) * rng.choice([1, 2, 8]))
        kept = rng.random() < 0.7
        image = Image(tokens, len(tokens), home, owner if kept else None)
        room = 64 + 64 * len(tokens)
        if store.add(image, room, spill):
            if image.path:
                files[image.path] = 1
            index.update(image)
            store.pin(image)
            if rng.random() < 0.1:
                store.remove(image)  # cancelled before it was written
            store.written(image, rng.randint(1, room))
            store.unpin(image)
            if kept and image in store.images:
                parked.append(image)
            elif rng.random() < 0.5:
                store.used(image)
        while under_way and rng.random() < 0.7:
            store.unpin(under_way.pop())
        while len(parked) > 40 or (parked and rng.random() < 0.5):
            store.remove(parked.pop(rng.randrange(len(parked))))
        if number % 500 == 0:
            assert store.check() == []
            assert len(files) == sum(bool(i.path) for i in store.images | store._leaving)
    shelved = len(store._in_memory) + len(store._on_disk)
    assert shelved <= 2 * len(store.images) + 128, "evicted images are forgotten"
    while under_way:
        store.unpin(under_way.pop())
    for image in list(store.images):
        store.remove(image)
    assert (store.check(), store.arena.used_bytes, store.disk_used_bytes) == ([], 0, 0)
    assert not files and len(index) == 0
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    store.close()


def test_what_was_generated_does_not_stand_for_what_was_prompt_nor_the_reverse(
    tmp_path: Path,
) -> None:
    """One request's prompt contains another's reply, and each could take the other's KV; there is
    no room to park either."""
    with open_rig(tmp_path, "fake:end=0,shaped=1", seats=1, ram=1 << 12, quantum=4,
                  rung=REPLAY) as rig:  # fmt: skip
        first = rig.ask(COMMON[:60], tokens=200)
        rig.run(lambda: len(first.tokens) > first.prompt_tokens + 140)
        second = rig.ask("".join(map(chr, first.tokens[1:])), tokens=40)
        rig.run()
        assert first.recomputes
        for request in (first, second):
            assert rig.reply(request).tokens == rig.alone(request)


def test_an_image_that_cannot_be_cut_is_not_read_for_its_beginning(tmp_path: Path) -> None:
    with open_rig(tmp_path, "fake:end=0,window=32", seats=1, ram=1 << 22) as rig:
        for text in (COMMON, "something else " * 16, COMMON + "and more"):
            last = rig.ask(text, tokens=4)
            rig.run()
        assert all(result.ok for _, result in rig.core.ops)
        assert not any(op.kind == "load" for op, _ in rig.core.ops)
        assert rig.reply(last).tokens == rig.alone(last)
