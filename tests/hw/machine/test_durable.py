"""Replacing a file: whole or not at all, synced on request, and nothing left behind."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from aios.hw.machine.durable import replace_file, replacing


@pytest.mark.parametrize(
    ("data", "content"), [("häh", "häh".encode()), (b"x", b"x"), (memoryview(b"xy")[1:], b"y")]
)
def test_a_file_is_made_and_replaced(
    tmp_path: Path, data: str | bytes | memoryview, content: bytes
) -> None:
    path = tmp_path / "file"
    replace_file(path, data)
    assert path.read_bytes() == content and path.stat().st_mode & 0o777 == 0o600
    replace_file(path, b"new", mode=0o644, durable=False)
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_synced_unless_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    replace_file(tmp_path / "file", b"x", durable=False)
    assert synced == []
    replace_file(tmp_path / "file", b"x")
    part, folder = synced
    assert Path(part).parent == tmp_path and part.endswith(".part") and folder == str(tmp_path)


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path if step == "replace" else os, step, _full)
        with pytest.raises(OSError, match="No space left"):
            replace_file(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "none" / "file", b"x")


def test_writers_at_the_same_time_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen: list[bytes] = []
    contents = [bytes([65 + number]) * 100_000 for number in range(4)]

    def write(content: bytes) -> None:
        for _ in range(25):
            replace_file(path, content, durable=False)
            seen.append(path.read_bytes())

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 100 and set(seen) <= set(contents)
    assert list(tmp_path.iterdir()) == [path]
