"""The grants file."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.kernel.access.grant_file import GrantFile
from aios.syscalls.errors import (
    InvalidArgument,
    NotFound,
)


def test_grants_persist(tmp_path: Path) -> None:
    path = tmp_path / "data" / "grants.json"
    first, _ = GrantFile(path).add("mail*", "allow network:*", 1e9)
    same, all_ = GrantFile(path).add("mail*", "allow network:*", 1e9)
    assert same.id == first.id == 1 and len(all_) == 1
    GrantFile(path).add("@agent", "deny tool:rm", 1e9)
    assert [g.id for g in GrantFile(path).load()] == [1, 2]
    removed, left = GrantFile(path).remove(1)
    assert removed.subject == "mail*" and [g.id for g in left] == [2]
    with pytest.raises(NotFound, match="aios perm ls"):
        GrantFile(path).remove(1)
    assert GrantFile(path).add("x", "allow tool:y", 1e9)[0].id == 3, "numbers are not reused"
    assert path.stat().st_mode & 0o777 == 0o600


def test_parts_of_killed_writes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".grants.json.77.part").touch()
    GrantFile(tmp_path / "grants.json").add("mailer", "allow network:*", 1e9)
    assert not list(tmp_path.glob(".*.part"))


def test_damaged_grants_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "grants.json"
    for text in ("", "{", '{"version":2}', '{"grants":[{"id":"x"}]}', "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(InvalidArgument, match=r"grants.*damaged"):
            GrantFile(path).load()
