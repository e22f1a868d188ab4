"""Files in use: changed where they lie, replaced, removed."""

from __future__ import annotations

import os
from pathlib import Path

from aios.hw.models.file_watch import FileWatch


def test_changes_and_replacements_are_told_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.write_text("old")
    watch = FileWatch([one, two, one])
    assert not watch.changed() and not watch.replaced()
    (tmp_path / "new").write_text("old")
    (tmp_path / "new").replace(two)
    assert not watch.changed() and watch.replaced() == str(two)
    os.truncate(one, 1)
    assert watch.changed() == str(one)
    one.unlink()
    two.unlink()
    assert not watch.replaced()
    watch.close()
    watch.close()
