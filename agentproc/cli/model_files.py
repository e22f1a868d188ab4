"""Models on this disk, for ``aios model``: no kernel is needed to see them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from aios.syscalls import paths
from aios.syscalls.errors import IllegalState, InvalidArgument
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import ModelInfo

from . import out, parts
from .daemonctl import system_call

Row = dict[str, Any]
"""A model as aios.hw.models.catalog describes it."""
_NOT_IN_USE = ("unloaded", "failed")


def folder() -> str:
    """Return the folder of the user's own models."""
    return str(paths.data_dir() / "models")


def find() -> list[Row]:
    """Describe the models on this disk."""
    found: list[Row] = _ask("ls")
    return found


def pull(options: argparse.Namespace) -> int:
    """Become the program that pulls a model."""
    words = [options.name, "--models", folder(), *["--json"] * options.json]
    parts.become("aios.hw.models.pull", *words)


def show(options: argparse.Namespace) -> int:
    """Show one model, from its files alone."""
    found: Row = _ask("show", out.model(options.name))
    if options.json:
        out.as_json(found)
        return 0
    lora = [f"{each['path']} x {each['scale']:g}" for each in found["lora"]]
    lines = [
        ("name", f"{found['name']} ({found['where']})"), ("title", found["title"]),
        ("use", found["kind"]), ("architecture", found["architecture"]),
        ("weights", f"{count(found['parameters'])}, {found['format']}"),
        ("trained for", f"{found['context_tokens']:,} tokens"),
        ("chat template", _template(found)), ("size", out.size(found["size_bytes"])),
        ("hash", found.get("hash", "")), ("files", "\n".join(found["files"])),
        ("LoRA", "\n".join(lora)), ("problem", found["problem"]),
    ]  # fmt: skip
    for title, text in lines:
        if text and not (found["problem"] and title in ("use", "weights", "trained for")):
            print(f"{title:<14} {out.plain_lines(text)}".replace("\n", "\n" + " " * 15))
    return int(bool(found["problem"]))


def _template(found: Row) -> str:
    if not found["template"]:
        return "none"
    return "yes, with tools" if found.get("takes_tools") else "yes, without tools"


def rm(options: argparse.Namespace) -> int:
    """Remove a model of the models folder, or a name."""
    found: Row = _ask("show", out.model(options.name))
    _refuse_in_use(found)
    if found["where"] in ("own", "alias") and not options.yes:
        named = found["where"] == "alias"
        what = f"the name {options.name}" if named else "\n".join(found["files"])
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise InvalidArgument(f"this would remove {what}", "say so: --yes")
        if input(f"remove {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            return 1
    removed = _ask("rm", out.model(options.name), "--cache", str(paths.cache_dir()))
    if options.json:
        out.as_json(removed)
    else:
        print("\n".join(f"removed {each}" for each in removed["removed"]))
    return 0


def _refuse_in_use(found: Row) -> None:
    """Raise IllegalState if the kernel has the model loaded."""
    if found["where"] != "own" or paths.kernel_os_pid(paths.runtime_dir()) is None:
        return
    served: list[ModelInfo] = system_call("model.list", Empty()).models
    for model in served:
        if model.path == found["path"] and model.state not in _NOT_IN_USE:
            raise IllegalState(
                f"the kernel uses {found['name']} ({model.state})",
                f"aios model unload {model.name}",
            )


def alias(options: argparse.Namespace) -> int:
    """Give a model another name, with LoRA adapters if wanted."""
    words = [f"--lora={each}" for each in options.lora]
    made = _ask("alias", options.name, out.model(options.target), *words)
    if options.json:
        out.as_json(made)
    return 0


def _ask(*words: str) -> Any:
    return parts.answer("aios.hw.models.command", *words, "--models", folder())


def show_table(models: list[Row]) -> None:
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
