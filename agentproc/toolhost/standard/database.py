"""Databases: SQLite files of mounted folders, asked or, where the mount is writable, changed.

Values travel apart from the SQL, as parameters. An authorizer refuses what would reach beyond the
file (ATTACH, extensions) or undo its safety (PRAGMA); to ask, SQLite itself is told to change
nothing. Rows, bytes and time are limited. A change is done whole or not at all.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

from msgspec import Meta

from aios.syscalls.errors import (
    DeadlineExceeded,
    InvalidArgument,
    PermissionDenied,
    ToolUnavailable,
)
from aios.tool import Tool, tool

from .files import Folders, opened

MAX_BYTES = 512 << 10
"""Of all rows of an answer, roughly."""
MAX_DATABASE_BYTES = 256 << 20
_MAX_CHARS = 64 << 10
"""Of one value; the rest is cut off."""
_TIME_S = 10.0
_BUSY_S = 5.0
"""How long a writer waits for another one."""
_STEPS = 10_000
"""Of SQLite's machine, between two looks at the clock."""
_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_WRITES = _READS | {
    getattr(sqlite3, f"SQLITE_{name}")
    for name in (
        "INSERT", "UPDATE", "DELETE", "CREATE_TABLE", "CREATE_INDEX", "CREATE_VIEW",
        "CREATE_TRIGGER", "DROP_TABLE", "DROP_INDEX", "DROP_VIEW", "DROP_TRIGGER", "ALTER_TABLE",
        "REINDEX", "ANALYZE",
    )
}  # fmt: skip
_PRAGMAS = {"table_info", "table_xinfo", "index_list", "index_info", "foreign_key_list"}
Value = str | int | float | bool | None
Sql = Annotated[str, Meta(min_length=1, max_length=20_000)]
Values = Annotated[list[Value], Meta(max_length=1000)]
Limit = Annotated[int, Meta(ge=1, le=10_000)]


def tools(folders: Folders, writable: Collection[str] = ()) -> list[Tool[..., Any]]:
    """The tools on databases in these folders; ``writable`` names those that may be changed."""

    @tool(effect="read", idempotent=True)
    def query_database(
        path: str,
        sql: Sql,
        parameters: Values = [],  # noqa: B006  copied by the tool's caller
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """Ask a SQLite database in a mounted folder; nothing in it can be changed.

        path: the database file, for example data/shop.db
        sql: one SELECT; the tables are in sqlite_master
        parameters: values for the ? in it
        limit: how many rows at most
        """
        mode = "rw" if _folder(path) in writable else "ro"  # what a killed writer left is mended
        with opened(folders, path) as fd, _database(fd, path, mode, _READS) as db:
            return _answer(db.execute(sql, parameters), limit)

    @tool(effect="irreversible")
    def change_database(
        path: str,
        sql: Sql,
        parameters: Values = [],  # noqa: B006  copied by the tool's caller
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """Change a SQLite database in a mounted folder; a file that is not there is made.

        path: the database file, for example data/shop.db
        sql: one statement: INSERT, UPDATE, DELETE, CREATE, ALTER or DROP
        parameters: values for the ? in it
        limit: how many rows of RETURNING at most
        """
        if _folder(path) not in writable:
            raise PermissionDenied(
                f"{path!r} is in no folder that may be changed",
                "the operator mounts one with: --tool-folders NAME=/PATH:rw",
            )
        flags = os.O_RDWR | os.O_CREAT
        with opened(folders, path, flags) as fd, _database(fd, path, "rw", _WRITES) as db:
            before = db.total_changes
            answer = _answer(db.execute(sql, parameters), limit)
            return {**answer, "changed": db.total_changes - before}

    return [query_database, change_database]


def _folder(path: str) -> str:
    return next((part for part in path.split("/") if part not in ("", ".")), "")


@contextmanager
def _database(fd: int, path: str, mode: str, may: set[int]) -> Iterator[sqlite3.Connection]:
    """A file, opened; each statement is a transaction. Raises AiosError for what goes wrong."""
    real = os.readlink(f"/proc/self/fd/{fd}")
    due_s = time.monotonic() + _TIME_S
    try:
        with closing(sqlite3.connect(
            f"file:{_quoted(real)}?mode={mode}", uri=True, timeout=_BUSY_S, isolation_level=None
        )) as db:  # fmt: skip
            (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
            db.execute(f"PRAGMA max_page_count = {MAX_DATABASE_BYTES // page_bytes}")
            db.execute(f"PRAGMA query_only = {int(may is _READS)}")
            db.set_authorizer(lambda action, what, *more: _judge(may, action, what, more))
            db.set_progress_handler(lambda: time.monotonic() > due_s, _STEPS)
            yield db
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        if "interrupted" in str(error):
            raise DeadlineExceeded(
                f"{path}: it took longer than {_TIME_S:g} s and was undone", "ask for less"
            ) from None
        if "locked" in str(error):
            raise ToolUnavailable(f"{path}: others are changing it", "call again") from None
        raise InvalidArgument(f"{path}: {error}", "the tables are in sqlite_master") from None


def _judge(may: set[int], action: int, what: str | None, more: tuple[str | None, ...]) -> int:
    allowed = action in may or (action == sqlite3.SQLITE_PRAGMA and what in _PRAGMAS)
    if action == sqlite3.SQLITE_FUNCTION and more[0] == "load_extension":
        allowed = False
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _answer(cursor: sqlite3.Cursor, limit: int) -> dict[str, Any]:
    """Rows until there are too many of them, or of their bytes."""
    columns = [column[0] for column in cursor.description or ()]
    rows: list[list[Any]] = []
    left = MAX_BYTES
    for row in cursor:
        plain = [_plain(value) for value in row]
        left -= sum(len(v.encode()) if isinstance(v, str) else 8 for v in plain)
        if len(rows) == limit or left < 0:
            return {"columns": columns, "rows": rows, "more": True}
        rows.append(plain)
    return {"columns": columns, "rows": rows, "more": False}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"x'{value[:64].hex()}'"
    if isinstance(value, str) and len(value) > _MAX_CHARS:
        return f"{value[:_MAX_CHARS]}… ({len(value) - _MAX_CHARS} more)"
    return value


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
