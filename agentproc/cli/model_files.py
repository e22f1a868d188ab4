"""Models on this disk, for ``aios model``: no kernel is needed to see them."""

from __future__ import annotations

import argparse
from typing import Any

from aios.syscalls import paths

from . import out, parts

Row = dict[str, Any]
"""A model as aios.hw.models.catalog describes it."""


def folder() -> str:
    """Return the folder of the user's own models."""
    return str(paths.data_dir() / "models")


def find() -> list[Row]:
    """Describe the models on this disk."""
    found: list[Row] = parts.answer("aios.hw.models.catalog", "ls", "--models", folder())
    return found


def pull(options: argparse.Namespace) -> int:
    """Become the program that pulls a model."""
    words = [options.name, "--models", folder(), *["--json"] * options.json]
    parts.become("aios.hw.models.pull", *words)


def show(models: list[Row]) -> None:
    """Print a table of models on the disk."""
    out.table(
        ["on this disk", "size>", "use", "?architecture", "?weights>", "?format", "?trained>",
         "where", "what"],
        [[m["name"], out.size(m["size_bytes"]), m["kind"], m["architecture"],
          count(m["parameters"]), m["format"], str(m["context_tokens"] or ""), m["where"],
          m["problem"] or m["title"]]
         for m in models],
    )  # fmt: skip


def count(number: int) -> str:
    """Return a number of weights as people write it: 135M, 7.2B."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number or "")
