"""All standard tools. All work offline except ``fetch``, which asks for each host."""

from __future__ import annotations

from typing import Any

from aios.tool import Tool
from aios.toolhost.reach import Reach

from . import compute, database, files, text, time, web


def tools(config: dict[str, Any], reach: Reach) -> dict[str, Tool[..., Any]]:
    """Return the tools by name. ``config``: ``folders`` (name → path), ``writable`` (names of
    the folders that may be changed)."""
    folders: dict[str, str] = config.get("folders", {})
    made: list[Tool[..., Any]] = [
        *compute.TOOLS, *text.TOOLS, *time.TOOLS, *files.tools(folders), *web.tools(reach),
        *database.tools(folders, config.get("writable", [])),
    ]  # fmt: skip
    return {tool.spec.name: tool for tool in made}


def names() -> list[str]:
    """Return their names."""
    return list(tools({}, lambda host: None))
