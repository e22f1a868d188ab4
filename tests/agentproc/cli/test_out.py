"""Tables: the columns that fit a narrow terminal; no control character of a cell gets through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aios.cli import out
from aios.syscalls.errors import InvalidArgument


@pytest.mark.parametrize(
    ("room", "shown"),
    [(28, [0, 1, 2, 3, 4]), (27, [0, 1, 2, 4]), (21, [0, 2, 4]), (15, [0, 4]), (1, [0, 4])],
)
def test_optional_columns_are_dropped_and_required_ones_stay(room: int, shown: list[int]) -> None:
    assert out.fitting([4, 4, 4, 4, 4], [0, 2, 1, 2, 0], room) == shown


def test_the_last_of_equal_columns_is_dropped_first() -> None:
    assert out.fitting([4, 4, 4, 4], [0, 1, 1, 0], 16) == [0, 1, 3]


def test_the_last_column_may_wrap() -> None:
    assert out.fitting([4, 4, 400], [0, 1, 0], 28) == [0, 1, 2]
    assert out.fitting([4, 4, 400], [0, 1, 0], 27) == [0, 2]


def test_a_table_has_one_line_for_each_row_and_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out.table(["id", "?text"], [["1", "a\x1b]0;title\x07\nb"], ["2", "é☃"]])
    assert capsys.readouterr().out.splitlines() == [
        "ID  TEXT",
        r"1   a\x1b]0;title\x07\nb",
        "2   é☃",
    ]


def test_a_terminal_gets_a_table_that_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "26")
    rows = [["犬", "1", "x" * 9, "a bit too long to fit here"], ["cat", "12", "", "short"]]
    out.table(["name", "n>", "?more", "text"], rows)
    assert capsys.readouterr().out.splitlines() == [
        "\x1b[1mNAME   N  TEXT\x1b[0m",
        "犬     1  a bit too long",
        "          to fit here",
        "cat   12  short",
        "not shown, too narrow: more",
    ]
    monkeypatch.setenv("NO_COLOR", "1")
    out.table(["a"], [["b"]])
    assert capsys.readouterr().out == "A\nb\n"


def test_a_complaint_keeps_its_lines_and_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out.complain("a\x1b[31m\nb", "c\r")
    assert capsys.readouterr().err == "aios: a\\x1b[31m\nb\n  c\\r\n"


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="'' is not a path"):
        out.whole("")


def test_a_path_in_a_folder_that_was_removed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert out.whole("a/b") == str(gone / "a/b")
    os.rmdir(gone)
    assert out.whole("/a/b") == "/a/b"
    with pytest.raises(InvalidArgument, match="was removed"):
        out.whole("a/b")
