"""Databases: query SQLite files in mounted folders, and change them if the mount is writable.

Values are passed as parameters, not in the SQL. An authorizer denies statements that reach beyond
the file (ATTACH, extensions) or weaken its safety (PRAGMA); queries run with ``query_only``. Rows,
bytes and time are limited. A change is atomic.
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
"""Approximate limit on the rows of one result."""
MAX_DATABASE_BYTES = 256 << 20
_MAX_CHARS = 64 << 10
"""Limit on one value; the rest is cut off."""
_TIMEOUT_S = 10.0
_LOCK_TIMEOUT_S = 5.0
"""Limit on the wait for another writer."""
_STEPS = 10_000
"""Instructions of SQLite's virtual machine between two checks of the timeout."""
_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION,
          sqlite3.SQLITE_RECURSIVE}  # fmt: skip
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
    """Return the tools on databases in these folders. ``writable``: names of those that may be
    changed."""

    @tool(effect="read", idempotent=True)
    def query_database(
        path: str,
        sql: Sql,
        parameters: Values = [],  # noqa: B006  copied by the tool's caller
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """Query a SQLite database in a mounted folder. Changes nothing.

        path: the database file, for example data/shop.db
        sql: one SELECT; the tables are in sqlite_master
        parameters: values for the ? in the sql
        limit: maximum number of rows
        """
        mode = "rw" if _folder(path) in writable else "ro"  # recovers after a killed writer
        with opened(folders, path) as fd, _database(fd, path, mode, _READS) as db:
            return _answer(db.execute(sql, parameters), limit)

    @tool(effect="irreversible")
    def change_database(
        path: str,
        sql: Sql,
        parameters: Values = [],  # noqa: B006  copied by the tool's caller
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """Change a SQLite database in a mounted folder. Creates a missing file.

        path: the database file, for example data/shop.db
        sql: one statement: INSERT, UPDATE, DELETE, CREATE, ALTER or DROP
        parameters: values for the ? in the sql
        limit: maximum number of rows of RETURNING
        """
        if _folder(path) not in writable:
            raise PermissionDenied(
                f"{path!r} is not in a writable folder",
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
    """Connect to a file; each statement is a transaction. Raises AiosError for SQLite's errors."""
    real = os.readlink(f"/proc/self/fd/{fd}")
    due_s = time.monotonic() + _TIMEOUT_S
    try:
        with closing(sqlite3.connect(
            f"file:{_quoted(real)}?mode={mode}", uri=True, timeout=_LOCK_TIMEOUT_S,
            isolation_level=None,
        )) as db:  # fmt: skip
            (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
            db.execute(f"PRAGMA max_page_count = {MAX_DATABASE_BYTES // page_bytes}")
            db.execute(f"PRAGMA query_only = {int(may is _READS)}")
            db.set_authorizer(lambda action, what, *more: _authorize(may, action, what, more))
            db.set_progress_handler(lambda: time.monotonic() > due_s, _STEPS)
            yield db
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        if "interrupted" in str(error):
            raise DeadlineExceeded(
                f"{path}: it took longer than {_TIMEOUT_S:g} s and was rolled back", "ask for less"
            ) from None
        if "locked" in str(error):
            raise ToolUnavailable(f"{path}: others are changing it", "call again") from None
        raise InvalidArgument(f"{path}: {error}", "the tables are in sqlite_master") from None


def _authorize(may: set[int], action: int, what: str | None, more: tuple[str | None, ...]) -> int:
    allowed = action in may or (action == sqlite3.SQLITE_PRAGMA and what in _PRAGMAS)
    if action == sqlite3.SQLITE_FUNCTION and more[0] == "load_extension":
        allowed = False
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _answer(cursor: sqlite3.Cursor, limit: int) -> dict[str, Any]:
    """Return the rows, up to the limits on rows and bytes."""
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
