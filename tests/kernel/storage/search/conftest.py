"""A folder of the host, and storage in which it is mounted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.storage.rig import Rig, rig

from .rig import settle


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A folder of the host."""
    folder = tmp_path / "yard"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "kiwi.md").write_text("A kiwi is a fruit, and a bird.")
    (folder / "sub" / "plum.md").write_text("The plum is blue.")
    (folder / "sub" / "deep" / "kiwis.md").write_text("Kiwis grow on vines.")
    for path in folder.rglob("*.md"):
        settle(path)
    return folder


@pytest.fixture
def store(tmp_path: Path, yard: Path) -> Iterator[Rig]:
    with rig(tmp_path / "s") as made:
        made.mount("bob", "y", yard)
        yield made
