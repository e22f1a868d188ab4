"""The path jail: no way out of a home, a share or a mount, even while links are swapped."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aios.kernel.storage.files import mount as hosts
from aios.kernel.storage.search import mount_walk
from aios.syscalls.errors import AiosError, IllegalState, InvalidArgument, PermissionDenied
from aios.syscalls.types.storage import MountInfo
from tests.kernel.storage.rig import Rig, rig

SECRET = b"outside"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class _Yard:
    """A mounted folder with every kind of link inside, and a secret outside."""

    def __init__(self, folder: Path) -> None:
        self.outside = folder / "outside"
        self.inside = folder / "inside"
        for base in (self.outside, self.inside, self.inside / "real"):
            base.mkdir()
        self.secret = self.outside / "secret"
        self.secret.write_bytes(SECRET)
        (self.inside / "real" / "ok").write_bytes(b"fine")
        links: dict[str, str | Path] = {
            "abs": self.secret, "rel": "../outside/secret", "dir": self.outside,
            "up": "..", "root": "/", "chain": "dir", "proc": "/proc/self/root",
            "self": "/proc/self/cwd", "loop": "loop", "dangling": self.outside / "new",
        }  # fmt: skip
        for name, target in links.items():
            (self.inside / name).symlink_to(target)
            (self.inside / "real" / name).symlink_to(target)
        os.mkfifo(self.inside / "fifo")
        self.links = sorted(links)

    def untouched(self) -> bool:
        return self.secret.read_bytes() == SECRET and sorted(os.listdir(self.outside)) == ["secret"]


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[_Yard]:
    made = _Yard(tmp_path)
    yield made
    assert made.untouched()


@pytest.fixture
def store(tmp_path: Path, yard: _Yard) -> Iterator[Rig]:
    with rig(tmp_path / "s") as made:
        made.mount("bob", "rw", yard.inside, writable=True)
        made.mount("bob", "ro", yard.inside)
        made.write("eve", "private", SECRET)
        yield made


def _attempts(store: Rig, path: str) -> list[Callable[[], object]]:
    """Return every operation on a path."""
    return [
        lambda: store.read("bob", path), lambda: store.write("bob", path, b"x"),
        lambda: store.write("bob", path, b"x", append=True), lambda: store.names("bob", path),
        lambda: store.stat("bob", path), lambda: store.mkdir("bob", path),
        lambda: store.delete("bob", path, recursive=True),
        lambda: store.move("bob", path, f"{path}-moved"),
    ]  # fmt: skip


def _is_outside(found: object) -> bool:
    """Return True if a result shows something that is not the agent's."""
    return found == SECRET or (isinstance(found, list) and any("secret" in n for n in found))


def test_no_path_leads_out(store: Rig, yard: _Yard) -> None:
    """Over 200 attempts: dots, absolute paths, links in every place, other homes."""
    paths = []
    for base in ("", "/", "/mnt/rw/", "/mnt/ro/", "/mnt/rw/real/", "/shared/eve/"):
        for way in (
            "../outside/secret", "..", "../..", "real/../../outside/secret", "./../outside",
            "a/./../../x", "../eve/private", "..\0", "real\0/../x", "%2e%2e/outside/secret",
            "....//outside/secret", "..\\outside\\secret", str(yard.secret),
        ):  # fmt: skip
            paths.append(base + way)
    for base, link in itertools.product(("/mnt/rw/", "/mnt/rw/real/"), yard.links):
        paths += [base + link, f"{base}{link}/secret", f"{base}{link}/outside/secret"]
        paths.append(f"{base}{link}/{str(yard.secret).lstrip('/')}")
    paths += ["/mnt/rw/fifo", "/eve/private", "/shared/eve", "/shared/eve/private", "/mnt/other/x"]
    tried = escaped = 0
    for path in paths:
        for attempt in _attempts(store, path):
            tried += 1
            try:
                escaped += _is_outside(attempt())
            except AiosError:
                continue
        assert yard.untouched(), path
    print(f"{tried} attempts with {len(paths)} paths")
    assert len(paths) >= 150 and tried >= 1000 and escaped == 0
    assert store.read("eve", "private") == SECRET


def test_links_that_are_swapped_under_a_walk_are_not_followed(yard: _Yard) -> None:
    """A thread swaps a folder with a link to the outside as fast as it can (seed printed)."""
    seed = 5
    print(f"seed {seed}")
    rng = random.Random(seed)
    mount = MountInfo("bob", "rw", str(yard.inside), True)
    target, link = yard.inside / "swap", yard.inside / "link"
    target.mkdir()
    (target / "secret").write_bytes(b"inside")
    link.symlink_to(yard.outside)
    stop = threading.Event()

    exchange = ctypes.CDLL(None, use_errno=True).renameat2

    def swap() -> None:
        left, right = os.fsencode(target), os.fsencode(link)
        while not stop.is_set():
            assert exchange(_AT_FDCWD, left, _AT_FDCWD, right, _RENAME_EXCHANGE) == 0

    swapper = threading.Thread(target=swap)
    swapper.start()
    inside = refused = 0
    try:
        for number in range(4000):
            try:
                match rng.randrange(6):
                    case 4:
                        seen = mount_walk.walk(mount.folder, lambda: True).files
                        sizes = [f.state.size for f in seen if f.path.endswith("/secret")]
                        assert len(SECRET) not in sizes
                    case 5:
                        (text,) = mount_walk.read(mount.folder, ["swap/secret"], time.time)
                        assert text.text in ("inside", None)
                    case 0:
                        assert hosts.read(mount, "swap/secret", 0, 100)[1] != SECRET
                    case 1:
                        hosts.write(mount, f"swap/new{number % 5}", b"x", append=False)
                    case 2:
                        hosts.move(mount, f"swap/new{number % 5}", f"swap/old{number}")
                    case _:
                        hosts.delete(mount, f"swap/new{number % 5}", recursive=False)
                inside += 1
            except AiosError:
                refused += 1
    finally:
        stop.set()
        swapper.join()
    assert yard.untouched()
    assert inside and refused


def test_a_mount_is_read_only_by_default(store: Rig, yard: _Yard) -> None:
    assert store.read("bob", "/mnt/ro/real/ok") == b"fine"
    assert store.names("bob", "/mnt") == ["/mnt/ro", "/mnt/rw"]
    for attempt in (
        lambda: store.write("bob", "/mnt/ro/new", b""), lambda: store.mkdir("bob", "/mnt/ro/d"),
        lambda: store.delete("bob", "/mnt/ro/real/ok"),
        lambda: store.move("bob", "/mnt/ro/real/ok", "/mnt/ro/x"),
    ):  # fmt: skip
        with pytest.raises(PermissionDenied, match="read-only"):
            attempt()
    store.write("bob", "/mnt/rw/d/new", b"1")
    store.write("bob", "/mnt/rw/d/new", b"2", append=True)
    assert (yard.inside / "d" / "new").read_bytes() == b"12"
    assert os.listdir(yard.inside / "d") == ["new"]
    store.move("bob", "/mnt/rw/d/new", "/mnt/rw/e/f")
    with pytest.raises(IllegalState, match="not empty"):
        store.delete("bob", "/mnt/rw/e")
    store.delete("bob", "/mnt/rw/e", recursive=True)
    assert not (yard.inside / "e").exists()
    with pytest.raises(AiosError, match="nothing is mounted"):
        store.read("eve", "/mnt/rw/real/ok")
    store.mount("bob", "ro", None)
    with pytest.raises(AiosError, match="nothing is mounted"):
        store.read("bob", "/mnt/ro/real/ok")


def test_errors_name_the_limits_of_paths(store: Rig) -> None:
    for path, said in (
        ("a\0b", "control character"), ("x" * 4096, "4096 bytes"), ("ä" * 200, "400 bytes"),
        ("/".join("a" * 40), "names deep"), ("a\ud800b", "UTF-8"), ("a\nb", "control"),
        ("/".join(["y" * 200] * 6), "1206 bytes"),
    ):  # fmt: skip
        with pytest.raises(InvalidArgument, match=said):
            store.write("bob", path, b"")
    store.write("bob", "ä" * 127, b"fits")
    for name in ("shared", "mnt", ".kv"):
        with pytest.raises(AiosError):
            store.write("bob", f"{name}", b"")
