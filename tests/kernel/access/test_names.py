"""Owners of names: the operator and programs, persistence on disk, and limits."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from aios.kernel.access.names import MAX_NAMES, OPERATORS, Names
from aios.kernel.access.principals import OPERATOR
from aios.kernel.process.table import Process, ProcessTable
from aios.syscalls.errors import ResourceExhausted
from aios.syscalls.types.process import SpawnRequest


def _now(job: Callable[[], None]) -> None:
    job()


def _none_barred(name: str) -> bool:
    return False


def _start(
    table: ProcessTable, stem: str, parent: Process | None = None, name: str | None = None
) -> Process:
    spec = SpawnRequest(path=f"/x/{stem}.py", name=name)
    pid = parent.pid if parent else OPERATOR
    return table.create(parent=pid, stem=stem, command=stem, spec=spec, guest=False)


# ---------------------------------------------------------------------------- owners


def test_a_childs_name_belongs_to_its_program(tmp_path: Path) -> None:
    table = ProcessTable(20, Names(tmp_path / "names", _now))
    a, b = _start(table, "a"), _start(table, "b")
    child = _start(table, "worker", a)
    deep = _start(table, "deep", child)
    assert [table.names.root(n) for n in ("a", "worker", "deep", "new")] == ["", "a", "a", None]
    table.buried(deep, 0, "")
    table.buried(child, 0, "")
    assert _start(table, "worker", b).name == "worker-2"
    assert _start(table, "deep", b).name == "deep-2"
    assert _start(table, "a", a).name == "a-2"
    assert (tmp_path / "names").read_text().splitlines() == [
        "a", "b", "worker\ta", "deep\ta", "worker-2\tb", "deep-2\tb", "a-2\ta",
    ]  # fmt: skip


def test_a_programs_children_get_the_same_names_on_its_next_run(tmp_path: Path) -> None:
    path = tmp_path / "names"
    before: dict[str, list[str]] = {}
    for _ in range(3):
        table = ProcessTable(50, Names(path, _now))
        for program in ("a", "b", "c"):
            root = _start(table, program)
            got = [_start(table, "worker", root).name for _ in range(3)]
            assert before.setdefault(program, got) == got
    assert before == {
        "a": ["worker", "worker-2", "worker-3"],
        "b": ["worker-4", "worker-5", "worker-6"],
        "c": ["worker-7", "worker-8", "worker-9"],
    }
    table = ProcessTable(50, Names(path, _now))
    assert _start(table, "worker", _start(table, "b")).name == "worker-4"
    assert len(path.read_text().splitlines()) == 12, "used again, written once"


def test_requested_names_do_not_skip_numbers_for_others() -> None:
    names = Names()
    names.take("worker-2", "a")
    names.take("worker-07", "a")
    assert names.free("worker", "a", _none_barred) == "worker"
    names.take("worker", "b")
    assert names.free("worker", "a", _none_barred) == "worker-2"
    assert names.free("worker", "a", {"worker-2"}.__contains__) == "worker-3"
    assert names.free("worker-2", "a", _none_barred) == "worker-2"
    assert names.free("worker-2", "b", _none_barred) == "worker-2-2"


def test_the_operator_takes_a_childs_name_by_requesting_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aios.names")
    table = ProcessTable(20, Names(tmp_path / "names", _now))
    team = _start(table, "team")
    table.buried(_start(table, "critic", team), 0, "")
    other = _start(table, "critic")
    assert other.name == "critic-2", "without a request, no program loses its name"
    table.buried(other, 0, "")
    assert _start(table, "critic").name == "critic-2", "and finds its own again"
    asked = _start(table, "critic", name="critic")
    table.buried(asked, 0, "")
    assert "critic, which children of team had, is the operator's" in caplog.text
    for names in (table.names, Names(tmp_path / "names")):
        assert names.root("critic") == OPERATORS
        assert names.free("critic", "team", _none_barred) == "critic-3"
        assert names.free("critic", OPERATORS, _none_barred) == "critic"


def test_using_anothers_name_does_not_change_its_owner(tmp_path: Path) -> None:
    """A child with the right ``agent.name`` may use such a name."""
    names = Names(tmp_path / "names", _now)
    for root in ("a", "b"):
        names.take("worker", root)
    names.take("diary", OPERATORS)
    names.take("diary", "a")
    assert (names.root("worker"), names.root("diary")) == ("a", OPERATORS)
    assert (tmp_path / "names").read_text() == "worker\ta\ndiary\n"


def test_only_free_names_are_reserved_for_the_operator() -> None:
    names = Names()
    names.take("worker", "a")
    names.reserve("worker")
    names.reserve("reader")
    assert (names.root("worker"), names.root("reader")) == ("a", OPERATORS)


# ---------------------------------------------------------------------------- on disk


def test_old_files_are_valid_and_damaged_lines_are_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "names"
    path.write_bytes(b"old\nchild\told\nbad\tx\ty\n\n\xff\xfe\n../up\n" + b"x" * 65 + b"\n"
                     b"child\tother\nnow\told\nnow\nnow\tother\nlast\n\0\0\ntorn\tol")  # fmt: skip
    names = Names(path, _now)
    assert [names.root(n) for n in ("old", "child", "now", "last", "bad", "torn", "torn\tol")] == [
        OPERATORS, "old", OPERATORS, OPERATORS, None, None, None,
    ]  # fmt: skip
    assert "line 3, 4, 5, 6, 7, 13, 14" in caplog.text
    assert caplog.text.count(str(path)) == 1
    caplog.clear()
    names.take("next", "old")
    names.take("more", OPERATORS)
    again = Names(path)
    assert (again.root("next"), again.root("more"), again.root("torn")) == ("old", OPERATORS, None)
    assert "14" in caplog.text


def test_a_crash_loses_only_lines_that_were_not_written(tmp_path: Path) -> None:
    jobs: list[Callable[[], None]] = []
    names = Names(tmp_path / "deep" / "names", jobs.append)
    for number in range(5):
        names.take(f"w{number}", "a")
    for job in jobs[:3]:
        job()
    again = Names(tmp_path / "deep" / "names", _now)
    assert [again.root(f"w{n}") for n in range(5)] == ["a", "a", "a", None, None]
    assert again.free("w3", "a", _none_barred) == "w3"


def test_a_full_disk_is_reported_and_damages_no_other_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "names", os.write
    names = Names(path, _now)
    names.take("one", "a")
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:2]))
    with pytest.raises(OSError, match="no space for the name"):
        names.take("two", "a")
    monkeypatch.undo()
    names.take("three", "a")
    again = Names(path)
    assert [again.root(n) for n in ("one", "two", "three", "tw")] == ["a", None, "a", None]


# ---------------------------------------------------------------------------- bounds


def test_names_of_a_program_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "names"
    path.write_text("".join(f"job-{n}\ta\n" for n in range(1, MAX_NAMES)))
    table = ProcessTable(10, Names(path, _now))
    a, b = _start(table, "a"), _start(table, "b")
    table.buried(_start(table, "x", a, name="the-last"), 0, "")
    with pytest.raises(ResourceExhausted, match="of a have had 10,000 different names") as caught:
        _start(table, "x", a, name="one-more")
    assert "had before" in caught.value.hint
    assert table.names.root("one-more") is None and len(table) == 2 and table.check() == []
    for name in ("the-last", "job-5", None):
        assert _start(table, "job", a, name=name).name in ("the-last", "job-5", "job-2")
    assert _start(table, "x", b, name="one-more").name == "one-more"
    _start(table, "x", name="job-9")
    assert _start(table, "x", a, name="there-is-room").name == "there-is-room"


def test_repeated_use_takes_no_more_space_or_work(tmp_path: Path) -> None:
    path = tmp_path / "names"
    path.write_text("".join(
        f"{f'worker-{n}' if n > 1 else 'worker'}\tp{n % 7}\n" for n in range(1, 20_001)
    ))  # fmt: skip
    names = Names(path, _now)
    size, looks = path.stat().st_size, 0
    living = {"worker", "worker-2", "worker-9", "worker-16"}

    def barred(name: str) -> bool:
        nonlocal looks
        looks += 1
        return name in living

    for _ in range(1000):
        for root, expected in (("p1", "worker-8"), ("p2", "worker-23"), ("p3", "worker-3")):
            assert names.free("worker", root, barred) == expected
            names.take(expected, root)
        assert names.free("worker", "new", barred) == "worker-20001"
    assert path.stat().st_size == size
    assert looks < 20 * 4 * 1000, "logarithmic in names, linear in the living"


@pytest.mark.parametrize("seed", range(5))
def test_chosen_names_follow_the_rule(seed: int, tmp_path: Path) -> None:
    """A chosen name never belongs to another root or a living agent, and is the root's own if that
    has a lower number. The file holds what was in memory."""
    chance = random.Random(seed)
    path = tmp_path / "names"
    names, living = Names(path, _now), set[str]()
    for _ in range(600):
        root = chance.choice(["", "a", "b", "c"])
        stem = chance.choice(["w", "w-2", "w-3", "x"])
        if chance.random() < 0.3:
            name = f"{stem}-{chance.randrange(12)}"
            if name in living or (root and names.root(name) not in (None, root)):
                continue
        else:
            name = names.free(stem, root, living.__contains__)
            assert name not in living and names.root(name) in (None, root)
            numbered = [stem, *(f"{stem}-{n}" for n in range(2, 2000))]
            own = [n for n in numbered if names.root(n) == root and n not in living]
            assert not own or numbered.index(name) <= numbered.index(own[0])
        names.take(name, root)
        living.add(name)
        if len(living) > 20:
            living.discard(chance.choice(sorted(living)))
    again = Names(path)
    known = {line.partition("\t")[0] for line in path.read_text().splitlines()}
    assert known and all(again.root(name) == names.root(name) for name in known)
    assert all(again.free(s, r, _none_barred) == names.free(s, r, _none_barred)
               for s in ("w", "w-2", "x") for r in ("", "a", "b", "d"))  # fmt: skip
