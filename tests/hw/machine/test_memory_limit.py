"""Available memory: the machine's, or the lowest limit of a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from aios.hw.machine.memory_limit import memory_bytes

TOTAL = psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("proc", "files", "expected"),
    [
        ("0::/\n", {}, TOTAL),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1000"}, 1000),
        ("0::/host/path\n", {"memory.max": "2000"}, 2000),  # in a container, the group is the mount
        ("4:cpu,memory:/x\n", {"memory/x/memory.limit_in_bytes": "3000"}, 3000),
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": str(2**63 - 4096)}, TOTAL),
        ("0::/../..\n", {"memory.max": "many"}, TOTAL),
        ("no such line\n", {}, TOTAL),
        (None, {}, TOTAL),
    ],
)
def test_the_lowest_limit_counts(
    tmp_path: Path, proc: str | None, files: dict[str, str], expected: int
) -> None:
    mount = tmp_path / "cgroup"
    mount.mkdir()
    for name, text in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(text)
    if proc is not None:
        (tmp_path / "proc").write_text(proc)
    assert memory_bytes(tmp_path / "proc", mount) == expected
