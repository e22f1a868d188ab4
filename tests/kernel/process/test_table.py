"""The process table: references, names, descent and dead processes."""

from __future__ import annotations

from typing import Any

import pytest

from aios.kernel.access.principals import OPERATOR
from aios.kernel.process.table import Process, ProcessTable
from aios.syscalls.errors import InvalidArgument, NotFound, ResourceExhausted
from aios.syscalls.types.process import SpawnRequest


def _create(table: ProcessTable, stem: str, parent: int = OPERATOR, **spec: Any) -> Process:
    given = SpawnRequest(path=f"/x/{stem}.py", **spec) if spec else None
    return table.create(parent=parent, stem=stem, command=stem, spec=given, guest=False)


def test_references_find_the_living_first() -> None:
    table = ProcessTable(10)
    old = _create(table, "math")
    table.buried(old, 3, "gone")
    new = _create(table, "math")
    _create(table, "mole")
    assert table.resolve("math") is new and table.resolve(str(old.pid)) is old
    assert table.resolve("mat") is new
    with pytest.raises(InvalidArgument, match="math, mole"):
        table.resolve("m")
    with pytest.raises(NotFound, match="aios ps -a"):
        table.resolve("zeta")
    table.buried(new, 0, "")
    assert table.resolve("math") is new, "the latest of the dead processes"
    assert table.check() == []


def test_names_are_unique_among_the_living() -> None:
    table = ProcessTable(4)
    assert [_create(table, s).name for s in ("a b", "a b", "7")] == ["a-b", "a-b-2", "7-2"]
    with pytest.raises(InvalidArgument, match="a-b"):
        _create(table, "x", name="a-b")
    _create(table, "last")
    with pytest.raises(ResourceExhausted, match="limit is 4"):
        _create(table, "more")


def test_descent() -> None:
    table = ProcessTable(10)
    a = _create(table, "a")
    b = _create(table, "b", a.pid)
    c = _create(table, "c", b.pid)
    for ancestor, pid in ((a.pid, c.pid), (OPERATOR, c.pid), (a.pid, a.pid)):
        assert table.started(ancestor, pid)
    assert not table.started(c.pid, a.pid)
    table.buried(b, 0, "")
    assert table.started(a.pid, c.pid), "also through a dead process"


def test_the_dead_are_remembered_within_bounds() -> None:
    table = ProcessTable(5)
    for _ in range(1100):
        table.buried(_create(table, "x"), 0, "")
    assert len(list(table.all())) == 1000 and len(table) == 0
