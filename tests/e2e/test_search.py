"""Search in mounted folders: rights, changes on the host, restarts and a damaged index."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import Machine
from tests.waiting import wait_for_end

SEARCH = """
import sys, aios
found = aios.fs.search(sys.argv[1], *sys.argv[2:3], mode=sys.argv[3] if sys.argv[3:] else "keyword")
print(*sorted({hit.path for hit in found.hits}))
print(found.mode, found.note)
"""


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of the host."""
    folder = tmp_path / "docs"
    for name in ("open/a.md", "secret/b.md", "ask/c.md"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("All about the kiwi.")
    return folder


def _found(machine: Machine, *words: str, run: tuple[str, ...] = ()) -> list[str]:
    path = machine.agent("seeker", SEARCH)
    got = machine.aios("run", *run, path, "--", *words)
    assert (got.returncode, got.stderr) == (0, ""), got
    return got.stdout.splitlines()


def test_search_finds_only_readable_files(machine: Machine, docs: Path) -> None:
    assert machine.aios("storage", "mount", "seeker", str(docs)).returncode == 0
    all_three = "/mnt/docs/ask/c.md /mnt/docs/open/a.md /mnt/docs/secret/b.md"
    assert _found(machine, "kiwi") == [all_three, "keyword "]
    assert _found(machine, "kiwi", run=("--name", "stranger")) == ["", "keyword "]
    bounded = ("--deny", "path.read:/mnt/docs/secret/**",
               "--allow", "ask path.read:/mnt/docs/ask/**")  # fmt: skip
    assert _found(machine, "kiwi", run=bounded) == ["/mnt/docs/open/a.md", "keyword "]
    assert machine.aios("approvals", "ls", "--json").stdout.strip() == "[]", "no question"
    denied = ("--deny", "path.read:/mnt/**")
    assert _found(machine, "kiwi", run=denied) == ["", "keyword "]
    path = machine.agent("seeker", SEARCH)
    got = machine.aios("run", *denied, path, "--", "kiwi", "/mnt/docs")
    assert got.returncode == 1 and "PermissionDenied" in got.stderr
    seen = machine.aios("audit", "--json").stdout
    assert "/mnt/docs/open/a.md" in seen
    assert machine.aios("storage", "umount", "seeker", "docs").returncode == 0
    assert _found(machine, "kiwi") == ["", "keyword "]


def test_search_follows_host_changes_and_rebuilds_a_damaged_index(
    stopped: Machine, docs: Path
) -> None:
    flags = ("--model", "fake", "--embedder", "fake")
    os_pid = stopped.start(*flags)
    stopped.aios("storage", "mount", "seeker", str(docs))
    (docs / "secret" / "b.md").unlink()
    os.rename(docs / "ask", docs / "moved")
    (docs / "new.md").write_text("One more kiwi.")
    every = "/mnt/docs/moved/c.md /mnt/docs/new.md /mnt/docs/open/a.md"
    assert _found(stopped, "kiwi", "/mnt/docs")[0] == every
    shown = _found(stopped, "kiwi", "/", "semantic")
    assert shown[1].startswith("semantic")
    assert "search by meaning: yes" in stopped.aios("storage", "status").stdout
    os.kill(os_pid, signal.SIGKILL)
    wait_for_end(os_pid)
    (docs / "new.md").unlink()
    stopped.aios("storage", "check")
    index = stopped.folder / "data" / "aios" / "storage" / "index.db"
    index.write_bytes(b"damaged" * 5000)
    index.with_name("index.db-wal").unlink()  # else SQLite takes the pages from there
    stopped.start(*flags)
    every = "/mnt/docs/moved/c.md /mnt/docs/open/a.md"
    assert _found(stopped, "kiwi") == [every, "keyword "]
    assert "is rebuilt" in stopped.log()
