"""The standard tools, by category; all work offline but ``fetch``, which asks for each host."""

from __future__ import annotations

from typing import Any

from aios.tool import Tool

from . import std_compute, std_database, std_files, std_text, std_time, std_web
from .reach import Reach


def tools(config: dict[str, Any], reach: Reach) -> dict[str, Tool[..., Any]]:
    """All of them. ``config``: ``folders`` (name → path), ``writable`` (names of those that may be
    changed)."""
    folders: dict[str, str] = config.get("folders", {})
    made: list[Tool[..., Any]] = [
        *std_compute.TOOLS,
        *std_text.TOOLS,
        *std_time.TOOLS,
        *std_files.tools(folders),
        *std_database.tools(folders, config.get("writable", [])),
        *std_web.tools(reach),
    ]
    return {tool.spec.name: tool for tool in made}


def names() -> list[str]:
    """What they are called."""
    return list(tools({}, lambda host: None))
