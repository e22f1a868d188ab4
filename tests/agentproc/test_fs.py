"""``aios.fs`` on mounted files that change during a call; a function stands in for the kernel."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from aios import fs, session
from aios.syscalls.errors import IllegalState, NotFound
from aios.syscalls.types import storage as s

SIZE = s.MAX_PART_BYTES + 10


class _Kernel:
    """One file of which ``left`` bytes can be read; ``meanwhile`` runs after each piece."""

    def __init__(self) -> None:
        self.info = s.FileInfo("/mnt/m/f", "file", SIZE, 0, 1.0, "")
        self.left = SIZE
        self.meanwhile: Callable[[], None] = lambda: None
        self.calls: list[str] = []

    def call(self, name: str, body: msgspec.Struct, reply: type[msgspec.Struct]) -> object:
        self.calls.append(name)
        match name, body:
            case "fs.read", s.FsRead():
                end = min(self.left, body.offset + body.length)
                piece = s.FsData(self.info, b"x" * max(0, end - body.offset))
                self.meanwhile()
                return piece
            case "fs.stat", s.FsPath("/mnt/m/f"):
                return self.info
            case "fs.stat", _:
                raise NotFound("no such file")
            case "fs.begin", _:
                return s.FsUpload(1)
        return self.info


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    made = _Kernel()
    monkeypatch.setattr(session, "call", made.call)
    return made


def test_a_file_truncated_during_a_read_is_an_error(kernel: _Kernel) -> None:
    assert len(fs.read("/mnt/m/f")) == SIZE
    kernel.meanwhile = lambda: setattr(kernel, "left", 100)
    with pytest.raises(IllegalState, match="/mnt/m/f was cut while it was read"):
        fs.read("/mnt/m/f")


def test_a_move_keeps_a_source_that_changed_meanwhile(kernel: _Kernel) -> None:
    fs.move("/mnt/m/f", "mine")
    assert kernel.calls[-1] == "fs.delete"
    kernel.calls.clear()
    kernel.meanwhile = lambda: setattr(
        kernel, "info", msgspec.structs.replace(kernel.info, changed_unix=2.0)
    )
    with pytest.raises(IllegalState, match="was changed while it was copied to mine"):
        fs.move("/mnt/m/f", "mine")
    assert "fs.delete" not in kernel.calls
