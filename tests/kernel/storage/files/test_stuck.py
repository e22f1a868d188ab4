"""Folders and stores that do not answer: which calls wait for them, and which do not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aios.kernel.loop import lanes
from aios.kernel.loop.lanes import Lanes
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.storage.files import mount
from aios.kernel.storage.files.blobs import LocalBlobs, RemoteBlobs
from aios.kernel.storage.files.paths import resolve
from aios.syscalls.errors import StorageUnavailable
from aios.syscalls.types import storage as s
from tests.kernel.storage.rig import BIG, Rig, rig
from tests.waiting import deadline_s, turn_until


class _Gate:
    """Work behind it waits until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.open.wait(deadline_s())


@pytest.fixture
def gate() -> Iterator[_Gate]:
    made = _Gate()
    yield made
    made.open.set()


@pytest.fixture
def store(tmp_path: Path, gate: _Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """``bob`` has two mounts; ``dead`` does not answer."""
    whole = mount.root

    @contextlib.contextmanager
    def root(folder: str) -> Iterator[int]:
        if folder.endswith("/dead"):
            gate.wait()
        with whole(folder) as fd:
            yield fd

    monkeypatch.setattr(mount, "root", root)
    with rig(tmp_path / "s") as made:
        for name in ("dead", "live"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "f").write_text(f"kiwi of {name}")
            made.mount("bob", name, tmp_path / name, writable=True)
        yield made
        gate.open.set()


def _begin_read(store: Rig, path: str) -> list[Outcome[s.FsData]]:
    return store.begin(store.files.read(resolve(path, "bob"), "bob", s.FsRead(path)))


def test_a_folder_that_does_not_answer_delays_only_the_calls_that_use_it(
    store: Rig, gate: _Gate
) -> None:
    stuck = _begin_read(store, "/mnt/dead/f")
    store.write("bob", "big.txt", b"a home's kiwi" + b" plum" * 28_000)
    assert gate.reached.wait(deadline_s())
    assert len(store.read("bob", "big.txt")) == 140_013
    assert store.read("bob", "/mnt/live/f") == b"kiwi of live"
    store.write("bob", "/mnt/live/g", b"more")
    upload = store.ask(store.storage.uploads.begin(
        "u", resolve("/mnt/live/h", "bob"), "bob", None))  # fmt: skip
    store.ask(store.storage.uploads.part("u", upload, BIG))
    assert store.ask(store.storage.uploads.end("u", upload)).size_bytes
    assert store.names("bob", "/mnt/live") == ["/mnt/live/f", "/mnt/live/g", "/mnt/live/h"]
    assert store.search("bob", "kiwi", "/mnt/live").note == ""
    assert len(store.search("bob", "kiwi", "/big.txt").hits) == 1
    found = store.search("bob", "kiwi", within_s=0.0)
    assert {hit.path for hit in found.hits} == {"/big.txt", "/mnt/live/f"}
    assert found.note.startswith("/mnt/dead: it is being indexed; what is not read yet is not")
    store.mount("bob", "dead", None)
    assert not stuck
    gate.open.set()
    store.ask(store.storage.lanes.run("/", lambda: None))
    turn_until(store.loop, lambda: stuck, "the folder's answer")
    assert stuck[0].result().data == b"kiwi of dead"


def test_the_operator_sees_what_does_not_answer(
    store: Rig, gate: _Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.storage.warnings() == []
    monkeypatch.setattr(lanes, "_LATE_S", 0.0)
    outcomes = _begin_read(store, "/mnt/dead/f")
    assert store.read("bob", "/mnt/live/f")
    assert gate.reached.wait(deadline_s())
    (warning,) = store.storage.warnings()
    assert warning.startswith(f"{tmp_path / 'dead'} has not answered for 0 s; calls that need it")
    gate.open.set()
    turn_until(store.loop, lambda: outcomes, "the folder's answer")
    assert store.storage.warnings() == []


def test_a_kernel_ends_though_a_folder_does_not_answer(
    store: Rig, gate: _Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios.kernel.storage.manager.CLOSE_S", 0.1)
    outcomes = _begin_read(store, "/mnt/dead/f")
    store.search("bob", "kiwi", within_s=0.0)
    assert gate.reached.wait(deadline_s())
    store.write("bob", "own", b"kept")
    store.storage.close()
    assert not outcomes
    with rig(store.storage.folder) as again:
        assert again.read("bob", "own") == b"kept"
    store.storage.close = lambda: None  # type: ignore[method-assign]


def test_a_store_that_does_not_answer_delays_no_small_files_no_search_and_no_other_store(
    tmp_path: Path, gate: _Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    with rig(tmp_path / "s") as made:
        made.write("bob", "local", BIG)
        made.write("bob", "small.txt", b"a small kiwi")

    def mute(*_: Any) -> None:
        gate.wait()
        raise StorageUnavailable("it does not answer")

    monkeypatch.setattr(RemoteBlobs, "put", mute)
    (tmp_path / "host").mkdir()
    with rig(tmp_path / "s", url=f"file://{tmp_path}/remote") as store:
        store.mount("bob", "h", tmp_path / "host", writable=True)
        body = s.FsWrite("big", BIG)
        outcomes = store.begin(store.files.write(resolve("big", "bob"), "bob", body))
        assert gate.reached.wait(deadline_s())
        store.write("bob", "small.txt", b"another small kiwi")
        assert store.read("bob", "small.txt") and store.read("bob", "local") == BIG
        store.write("bob", "/mnt/h/f", BIG)
        assert len(store.search("bob", "kiwi").hits) == 1 and not outcomes
        gate.open.set()
        turn_until(store.loop, lambda: outcomes, "the store's answer")
        with pytest.raises(StorageUnavailable):
            outcomes[0].result()


def test_garbage_in_a_store_that_does_not_answer_does_not_keep_that_in_others(
    tmp_path: Path, gate: _Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    with rig(tmp_path / "s", keep=1) as made:
        made.write("bob", "local", BIG)
    monkeypatch.setattr(RemoteBlobs, "delete", lambda *_: gate.wait())
    with rig(tmp_path / "s", url="memory://garbage", keep=1) as store:
        store.write("bob", "remote", BIG[::-1])
        store.write("bob", "remote", b"small")
        turn_until(store.loop, gate.reached.is_set, "the deletion")
        blobs = tmp_path / "s" / "blobs"
        assert any(path.is_file() for path in blobs.rglob("*"))
        store.write("bob", "local", b"small")
        turn_until(
            store.loop,
            lambda: not any(path.is_file() for path in blobs.rglob("*")),
            "deletion",
        )
        gate.open.set()


def test_a_search_in_a_home_does_not_wait_for_a_text_that_does_not_come(
    tmp_path: Path, gate: _Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LocalBlobs.get

    def get(self: LocalBlobs, key: str) -> bytes:
        gate.wait()
        return whole(self, key)

    with rig(tmp_path / "s") as store:
        store.write("bob", "small", b"a small kiwi")
        assert len(store.search("bob", "kiwi").hits) == 1
        monkeypatch.setattr(LocalBlobs, "get", get)
        store.write("bob", "big", b"a large kiwi " * 10_000)
        found = store.search("bob", "kiwi", within_s=0.1)
        assert [hit.path for hit in found.hits] == ["/small"]
        assert found.note == "/: it is being indexed; what is not read yet is not found"
        gate.open.set()
        assert len(store.search("bob", "kiwi", limit=100).hits) > 1


# ------------------------------------------------------------------------------ lanes alone


def _drain(loop: Loop, outcomes: Sequence[object], count: int) -> None:
    turn_until(loop, lambda: len(outcomes) >= count, f"{count} outcomes")


def test_the_queue_of_a_lane_has_a_limit(gate: _Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_WAITING", 3)
    loop = Loop()
    made = Lanes(loop, "test")
    outcomes: list[Outcome[None]] = []
    for _ in range(5):
        made.submit("there", gate.wait, outcomes.append)
    assert [type(outcome.error) for outcome in outcomes] == [StorageUnavailable] * 2
    made.submit("elsewhere", lambda: None, outcomes.append)
    _drain(loop, outcomes, 3)
    gate.open.set()
    _drain(loop, outcomes, 6)
    made.submit("there", lambda: None, outcomes.append)
    _drain(loop, outcomes, 7)
    assert not any(outcome.error for outcome in outcomes[2:])
    made.close(time.monotonic() + 10)
    loop.close()


def test_a_lane_without_work_ends_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_IDLE_S", 0.0)
    loop = Loop()
    made = Lanes(loop, "idle-lane")
    seen: list[Outcome[None]] = []
    for count in range(1, 4):
        made.submit("there", lambda: None, seen.append)
        _drain(loop, seen, count)
    turn_until(
        loop,
        lambda: not any(t.name == "idle-lane" for t in threading.enumerate()),
        "its end",
    )
    made.submit("there", lambda: None, seen.append)
    _drain(loop, seen, 4)
    made.close(time.monotonic() + 10)
    made.submit("there", lambda: None, seen.append)
    loop.close()
    assert len(seen) == 4, "nothing is begun any more"
