"""Databases: SQLite files of mounted folders, read-only.

SQLite itself is told to open for reading; an authorizer refuses everything that is not a query.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Annotated, Any

from msgspec import Meta

from aios.syscalls.errors import InvalidArgument
from aios.tool import Tool, tool

from .std_files import Folders, opened

_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_PRAGMAS = {"table_info", "table_xinfo", "index_list", "index_info", "foreign_key_list"}
Value = str | int | float | bool | None


def tools(folders: Folders) -> list[Tool[..., Any]]:
    """The tools on databases in these folders."""

    @tool(effect="read", idempotent=True)
    def query_database(
        path: str,
        sql: Annotated[str, Meta(min_length=1, max_length=20_000)],
        parameters: list[Value] = [],  # noqa: B006  copied by the tool's caller
        limit: Annotated[int, Meta(ge=1, le=10_000)] = 100,
    ) -> dict[str, Any]:
        """Ask a SQLite database in a mounted folder; nothing in it can be changed.

        path: the database file, for example data/shop.db
        sql: one SELECT; the tables are in sqlite_master
        parameters: values for the ? in it
        limit: how many rows at most
        """
        with opened(folders, path) as fd:
            real = os.readlink(f"/proc/self/fd/{fd}")
        try:
            db = sqlite3.connect(f"file:{_quoted(real)}?mode=ro", uri=True)
            try:
                db.set_authorizer(_judge)
                cursor = db.execute(sql, parameters)
                rows = cursor.fetchmany(limit + 1)
                columns = [column[0] for column in cursor.description or ()]
            finally:
                db.close()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise InvalidArgument(f"{path}: {error}", "the tables are in sqlite_master") from None
        return {"columns": columns, "rows": [_plain(row) for row in rows[:limit]],
                "more": len(rows) > limit}  # fmt: skip

    return [query_database]


def _judge(action: int, what: str | None, *_: object) -> int:
    allowed = action in _ALLOWED or (action == sqlite3.SQLITE_PRAGMA and what in _PRAGMAS)
    if action == sqlite3.SQLITE_FUNCTION and _[0] == "load_extension":
        allowed = False
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _plain(row: tuple[Any, ...]) -> list[Any]:
    return [f"x'{v[:64].hex()}'" if isinstance(v, bytes) else v for v in row]


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
