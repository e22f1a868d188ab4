"""Huge pages in the environment of engine processes."""

from __future__ import annotations

import pytest

from aios.hw.machine.huge_pages import engine_environment


@pytest.mark.parametrize(("users", "ours"), [
    (None, "glibc.malloc.hugetlb=1"),
    ("glibc.malloc.perturb=3", "glibc.malloc.perturb=3:glibc.malloc.hugetlb=1"),
    ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
])  # fmt: skip
def test_huge_pages_are_on_unless_the_user_has_set_them(
    users: str | None, ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if users:
        monkeypatch.setenv("GLIBC_TUNABLES", users)
    assert engine_environment()["GLIBC_TUNABLES"] == ours
