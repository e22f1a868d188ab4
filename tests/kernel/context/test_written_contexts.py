"""Contexts written to files: when, what they hold, and what stops a write."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from aios.hw.core.messages import Op
from aios.hw.machine.arena import Arena
from aios.kernel.context.image_planning import Written
from aios.kernel.context.prefix import BLOCK
from aios.kernel.context.store import KvStore
from aios.kernel.loop.task import Promise
from aios.kernel.model.info import describe
from aios.kernel.scheduler.request import Request
from tests.kernel.rig import open_rig, outcome_of

COMMON = "the common beginning of all prompts, long enough to be worth sharing among them. " * 3


def test_files_of_saved_contexts_are_known_up_to_a_limit_and_never_deleted(tmp_path: Path) -> None:
    with open_rig(tmp_path, disk=1 << 20) as rig:
        rig.ask("x", tokens=1)
        rig.run()
        tokens = array("i", range(64))
        file = tmp_path / "mine.kv"
        file.write_bytes(b"precious")
        for n in range(600):
            rig.model.saved_kv.restore(tokens, str(tmp_path / f"{n}.kv"), n)
        rig.model.saved_kv.restore(tokens, str(file), 1)
        assert describe(rig.model, rig.models.jobs).images <= 257
        rig.models.unload(rig.model)
        assert file.read_bytes() == b"precious" and not rig.store.images


def test_a_store_without_a_folder_uses_memory_only(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = KvStore(Arena(1 << 12), blocked / "kv", 1 << 20)
    assert store.disk_bytes == 0
    store.close()


# ---------------------------------------------------------------------------- saved files


def test_a_saved_file_holds_the_saved_tokens_only(tmp_path: Path) -> None:
    """Another request has continued the same prefix; its KV must not pass for ours."""
    with open_rig(tmp_path, seats=2, ram=1 << 22) as rig:
        mine = rig.ask(COMMON + "mine", tokens=4)
        rig.run()
        theirs = rig.ask(COMMON + "their own way from here", tokens=30)
        rig.run()
        for seat in rig.model.context._seats:  # type: ignore[union-attr]
            if seat.tokens is mine.tokens:
                rig.model.context._empty(seat)  # type: ignore[union-attr]
        path = tmp_path / "a.kv"
        saved = rig.model.saved_kv.save(mine.tokens, str(path))
        rig.run()
        count, stamp = outcome_of(saved)
        assert len(COMMON) < count < len(COMMON) + BLOCK
        assert theirs.tokens[:count] == mine.tokens[:count]
        rig.models.unload(rig.model)
        rig.model.saved_kv.restore(mine.tokens[:count], str(path), stamp)
        again = rig.ask(COMMON + "mine" + "".join(map(chr, mine.generated)), tokens=9)
        rig.run()
        assert rig.reply(again).usage.cached_tokens == count
        assert rig.reply(again).tokens == rig.alone(again)


def test_a_context_is_written_when_the_slice_is_over(tmp_path: Path) -> None:
    """The reply comes before the slice's end; all of it is saved all the same."""
    with open_rig(tmp_path, seats=2, quantum=50, ram=1 << 22) as rig:
        saves: list[Promise[Written]] = []

        def save() -> None:
            saves.append(rig.model.saved_kv.save(first.tokens, str(tmp_path / "a.kv")))

        first: Request = rig.ask(COMMON, tokens=20, after=save)
        rig.ask("another, who keeps the slice going", tokens=40)
        rig.run()
        assert outcome_of(saves[0])[0] >= (len(first.tokens) - 1) // BLOCK * BLOCK


@pytest.mark.parametrize("what", ["unload", "kill"])
def test_a_save_under_way_ends_when_the_core_does(tmp_path: Path, what: str) -> None:
    with open_rig(tmp_path, seats=2, ram=1 << 22) as rig:
        first = rig.ask(COMMON, tokens=20)
        rig.run()
        saved = rig.model.saved_kv.save(first.tokens, str(tmp_path / "a.kv"))
        assert rig.model.wanted and not saved.settled
        rig.models.unload(rig.model) if what == "unload" else rig.core.kill()
        rig.run()
        assert outcome_of(saved)[0] == 0


def test_an_operation_on_a_full_device_fails_and_leaves_no_part(tmp_path: Path) -> None:
    with open_rig(tmp_path, seats=1) as rig:
        request = rig.ask(COMMON, tokens=2)
        rig.run()
        assert rig.core._core and request.id in rig.outcomes
        result = rig.core._core._seat_operations.carry_out(
            Op("save", 0, size_bytes=1 << 16, path="/dev/full/x.kv")
        )
        assert not result.ok and result.reason
