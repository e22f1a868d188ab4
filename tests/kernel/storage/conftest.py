"""Storage for one test, checked at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .rig import Rig, rig


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Rig]:
    """Storage without a kernel, free of damage at the end of the test."""
    with rig(tmp_path / "s") as made:
        yield made
        assert made.check().problems == []
