"""The standard tools, called as a worker calls them."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from aios.syscalls.errors import (
    AiosError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from aios.toolhost.standard import database, settings
from tests.conftest import http_server


def _call(tools: Any, name: str, **arguments: Any) -> Any:
    return json.loads(tools[name].run(json.dumps(arguments)))


@pytest.fixture
def tools(tmp_path: Path) -> Any:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("The kernel preempts a generation at any token.")
    (folder / "sub" / "b.txt").write_text("Bread needs flour, water and salt.")
    (folder / "bin").write_bytes(b"\0\1\2 kernel")
    (tmp_path / "outside").write_text("kernel secret")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo")
    db = sqlite3.connect(folder / "x.db")
    db.execute("CREATE TABLE t (n INTEGER, s TEXT)")
    db.executemany("INSERT INTO t VALUES (?, ?)", [(n, f"row {n}") for n in range(300)])
    db.commit()
    db.close()
    return settings.tools({"folders": {"docs": str(folder)}}, lambda host: None)


@pytest.mark.parametrize(("expression", "value"), [
    ("6*7", 42), ("2^10", 1024), ("-(3 - 5) ** 2", -4), ("sqrt(16) + pi * 0", 4.0),
    ("7 // 2 + 7 % 4", 6), ("max(1, 2, 3)", 3), ("1_000 + 1", 1001),
])  # fmt: skip
def test_the_calculator(tools: Any, expression: str, value: float) -> None:
    assert _call(tools, "calculate", expression=expression) == value


@pytest.mark.parametrize("expression", [
    "", "x", "__import__('os')", "(1).__class__", "[1]", "'a' * 9", "lambda: 1", "9**9**9", "1/0",
    "10**400 * 1.0", "factorial(9)", "(-1) ** 0.5", "True", "sqrt(x=1)", "max()", "(" * 500,
    "2**4096 * 2**4096", "1 if 1 else 2", "9" * 999, "abs(*[1])", "\0", "sqrt",
])  # fmt: skip
def test_the_calculator_refuses_everything_else(tools: Any, expression: str) -> None:
    if expression == "9" * 999:
        assert _call(tools, "calculate", expression=expression) == int(expression)
        return
    with pytest.raises(InvalidArgument):
        _call(tools, "calculate", expression=expression)


def test_numbers_text_time_and_units(tools: Any) -> None:
    assert _call(tools, "describe_numbers", numbers=[1, 2, 6])["mean"] == 3
    assert _call(tools, "count_text", text="a b\nc")["words"] == 3
    assert _call(tools, "find_in_text", text="ab\nab", pattern="b")[1]["line"] == 2
    assert _call(tools, "replace_in_text", text="aa", pattern="(a)", by=r"\1b") == "abab"
    assert "+b" in _call(tools, "compare_texts", old="a", new="b")
    assert _call(tools, "read_json", document='{"a": [1, {"b": 2}]}', path="a.1.b") == 2
    assert _call(tools, "convert_units", value=212, unit="F", to="C") == 100
    assert _call(tools, "convert_units", value=1, unit="mi", to="km") == 1.609344
    assert _call(tools, "time_between", start="2024-02-28", end="2024-03-01")["days"] == 2
    there = _call(tools, "convert_time", time="2025-07-01T12:00", timezone="UTC", to="Europe/Oslo")
    assert there.startswith("2025-07-01T14:00")
    for name, arguments in (
        ("convert_units", {"value": 1, "unit": "kg", "to": "m"}),
        ("current_time", {"timezone": "../../etc/passwd"}),
        ("find_in_text", {"text": "a", "pattern": "("}),
        ("replace_in_text", {"text": "a", "pattern": "a", "by": r"\9"}),
        ("read_json", {"document": "{", "path": ""}),
    ):
        with pytest.raises(AiosError):
            _call(tools, name, **arguments)


def test_files_are_listed_read_and_searched(tools: Any) -> None:
    paths = [each["path"] for each in _call(tools, "list_files")]
    assert paths == ["docs/a.txt", "docs/bin", "docs/sub/b.txt", "docs/x.db"]
    part = _call(tools, "read_file", path="docs/a.txt", offset=4, limit=6)
    assert (part["text"], part["next_offset"]) == ("kernel", 10)
    found = _call(tools, "search_files", query="preempting kernels")
    assert [each["path"] for each in found] == ["docs/a.txt"]
    assert _call(tools, "search_files", query="zebra") == []


def test_a_changed_file_is_indexed_again(tools: Any, tmp_path: Path) -> None:
    assert _call(tools, "search_files", query="zebra") == []
    (tmp_path / "docs" / "a.txt").write_text("a zebra")
    assert len(_call(tools, "search_files", query="zebra")) == 1


@pytest.mark.parametrize("path", [
    "docs/../outside", "docs/link", "docs/up/outside", "/etc/passwd", "..", "", "docs/fifo",
    "docs/sub", "docs/\0", "docs/" + "x" * 4096, "nowhere/x", "docs/sub/../../outside",
    "docs/./../outside", "docs//up//outside",
])  # fmt: skip
def test_no_path_leads_outside_a_folder(tools: Any, path: str) -> None:
    for name in ("read_file", "query_database"):
        with pytest.raises((InvalidArgument, NotFound)):
            _call(tools, name, path=path, **({"sql": "SELECT 1"} if name != "read_file" else {}))


def test_a_query_never_changes_a_database(tools: Any, tmp_path: Path) -> None:
    path = "docs/x.db"
    got = _call(tools, "query_database", path=path, sql="SELECT * FROM t WHERE n < ?",
                parameters=[2])  # fmt: skip
    assert got == {"columns": ["n", "s"], "rows": [[0, "row 0"], [1, "row 1"]], "more": False}
    assert _call(tools, "query_database", path=path, sql="SELECT n FROM t")["more"] is True
    before = (tmp_path / "docs" / "x.db").read_bytes()
    for sql in (
        "DELETE FROM t", "DROP TABLE t", "CREATE TABLE u (x)", "INSERT INTO t VALUES (1, 'x')",
        f"ATTACH '{tmp_path}/other.db' AS o", "PRAGMA journal_mode=WAL", "VACUUM",
        "SELECT 1; SELECT 2", "SELECT load_extension('x')", "nonsense", "SELECT * FROM nowhere",
        "BEGIN", f"VACUUM INTO '{tmp_path}/copy.db'",
    ):  # fmt: skip
        with pytest.raises(InvalidArgument):
            _call(tools, "query_database", path=path, sql=sql)
    assert (tmp_path / "docs" / "x.db").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["docs", "outside"]
    with pytest.raises(InvalidArgument):
        _call(tools, "query_database", path="docs/a.txt", sql="SELECT 1 FROM sqlite_master")


def test_a_database_in_a_writable_folder_can_be_changed(tmp_path: Path) -> None:
    for name in ("data", "docs"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside").touch()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "outside")
    folders = {name: str(tmp_path / name) for name in ("data", "docs")}
    made = settings.tools({"folders": folders, "writable": ["data"]}, lambda host: None)

    def change(sql: str, *values: Any, path: str = "data/x.db", **more: Any) -> Any:
        return _call(made, "change_database", path=path, sql=sql, parameters=values, **more)

    change("CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT)")
    nasty = "'); DROP TABLE t; --"
    assert change("INSERT INTO t (s) VALUES (?), (?)", nasty, None)["changed"] == 2
    got = change("UPDATE t SET s = s || 'x' RETURNING n, s", limit=1)
    assert (got["rows"], got["more"], got["changed"]) == ([[1, nasty + "x"]], True, 2)
    change("ALTER TABLE t ADD COLUMN more REAL")
    change("CREATE TRIGGER r AFTER DELETE ON t BEGIN INSERT INTO t (s) VALUES ('again'); END")
    with pytest.raises(InvalidArgument, match="UNIQUE"):  # atomic
        change("INSERT INTO t (n, s) VALUES (9, 'a'), (1, 'b')")
    for sql in (
        f"ATTACH '{tmp_path}/other.db' AS o", "PRAGMA journal_mode=WAL", "BEGIN", "nonsense",
        f"VACUUM INTO '{tmp_path}/copy.db'", "DELETE FROM t; DELETE FROM t", "SAVEPOINT s",
        "PRAGMA writable_schema=1", "UPDATE sqlite_master SET sql = ''", "VACUUM",
        "SELECT load_extension('x')", "CREATE VIRTUAL TABLE v USING fts5(x)",
    ):  # fmt: skip
        with pytest.raises(InvalidArgument):
            change(sql)
    for path in ("docs/x.db", "nowhere/x.db", "data/../docs/x.db", "data/link", "data", "/"):
        with pytest.raises((InvalidArgument, NotFound, PermissionDenied)):
            change("CREATE TABLE t (n)", path=path)
    rows = _call(made, "query_database", path="data/x.db", sql="SELECT n, s FROM t")["rows"]
    assert rows == [[1, nasty + "x"], [2, None]]
    with pytest.raises(InvalidArgument):
        _call(made, "query_database", path="data/x.db", sql="DELETE FROM t")
    assert (tmp_path / "outside").read_bytes() == b""
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "data", "docs", "link", "outside", "x.db"]  # fmt: skip


def test_an_endless_statement_is_stopped_and_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_TIMEOUT_S", 0.1)
    made = settings.tools({"folders": {"d": str(tmp_path)}, "writable": ["d"]}, lambda host: None)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    _call(made, "change_database", path="d/x.db", sql="CREATE TABLE t (n)")
    for name, sql in (("change_database", f"INSERT INTO t {endless} SELECT x FROM n"),
                      ("query_database", f"{endless} SELECT count(*) FROM n")):  # fmt: skip
        with pytest.raises(DeadlineExceeded):
            _call(made, name, path="d/x.db", sql=sql)
    got = _call(made, "query_database", path="d/x.db", sql="SELECT count(*) FROM t")
    assert got["rows"] == [[0]]
    big = _call(made, "query_database", path="d/x.db", limit=10_000,
                sql=f"{endless} SELECT printf('%9000d', x) FROM n LIMIT 999")  # fmt: skip
    assert big["more"] is True and len(json.dumps(big)) < 1 << 20


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        port = self.connection.getsockname()[1]
        place = {"/away": "http://example.org/", "/round": "/round", "/on": "/page",
                 "/local": f"http://localhost:{port}/page"}.get(self.path)  # fmt: skip
        self.send_response(302 if place else 200)
        if place:
            self.send_header("Location", place)
        body = b"x" * 100_000 if self.path == "/long" else b"hello"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    with http_server(_Pages) as address:
        yield address


def test_only_allowed_hosts_are_fetched(web: str) -> None:
    asked: list[str] = []

    def reach(host: str) -> None:
        asked.append(host)
        if host != "127.0.0.1":
            raise PermissionDenied(host)

    opened = settings.tools({}, reach)
    assert _call(opened, "fetch", url=f"http://{web}/on")["text"] == "hello"
    long = _call(opened, "fetch", url=f"http://{web}/long", limit=10)
    assert long["text"] == "x" * 10 and long["more"]
    for url in (
        f"http://{web}/away", f"http://{web}/round", f"http://{web}/local", f"https://{web}/page",
        "file:///etc/passwd", f"http://user@{web}/", "http://example.org", f"http://{web}.evil/",
        f"http://{web}/\r\nX: y", "http://[", "", "http://127.0.0.1:99999/", "ftp://" + web,
    ):  # fmt: skip
        with pytest.raises(AiosError):
            _call(opened, "fetch", url=url)
    port = web.partition(":")[2]
    for host in ("127.1", "0x7f.0.0.1", "2130706433", "127.0.0.1.", "\uff11\uff12\uff17.0.0.1",
                 "[::ffff:127.0.0.1]", "127\u30020.0.1"):  # fmt: skip
        asked.clear()
        assert _call(opened, "fetch", url=f"http://{host}:{port}/on")["text"] == "hello"
        assert set(asked) == {"127.0.0.1"}, "in every spelling"
    for host, name in (("EXAMPLE.org", "example.org"), ("ex\u0430mple.org", "xn--exmple-4nf.org"),
                       ("\uff45xample.org", "example.org"), ("[0:0::1]", "::1")):  # fmt: skip
        asked.clear()
        with pytest.raises(PermissionDenied):
            _call(opened, "fetch", url=f"http://{host}:{port}/on")
        assert asked == [name]
