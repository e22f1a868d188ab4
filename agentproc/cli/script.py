"""The ``# /// script`` block of an agent's file (PEP 723), and the environment that uv makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from aios.syscalls.errors import InvalidArgument

ADD_AIOSD = 'add "aiosd" to the dependencies in the file\'s # /// script block'
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
"""The reference regular expression of the PEP."""
_SAY_AFTER_S = 1.0
"""Time that uv may take before the caller is told that it works."""


def demands(file: Path) -> bool:
    """Return True if a file has a block that names dependencies or a version of Python.

    Raises InvalidArgument if the block is not valid, OSError if the file cannot be read.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    found = [match for match in _BLOCK.finditer(text) if match["type"] == "script"]
    if not found:
        return False
    if len(found) > 1:
        raise InvalidArgument(f"{file} has {len(found)} script blocks", "keep one of them")
    import tomllib  # most files have no block

    lines = found[0]["content"].splitlines()
    try:
        content = tomllib.loads("\n".join(line[2:] for line in lines))
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"the script block of {file} is not TOML: {error}") from None
    return bool(content.keys() & {"dependencies", "requires-python"})


def environment(file: Path) -> str:
    """Have uv make or update the environment of a file's block; return its interpreter.

    Raises InvalidArgument if there is no uv, or with uv's own words.
    """
    uv = shutil.which("uv")
    if not uv:
        raise InvalidArgument(
            f"{file} names its dependencies in a script block, which needs uv",
            f"install it: {sys.executable} -m pip install uv; "
            "or name an environment that has them: aios run --python PATH",
        )
    _run(uv, file, "sync", "--quiet")
    return _run(uv, file, "python", "find").strip()


def _run(uv: str, file: Path, *command: str) -> str:
    """Run a command of uv on a file; return what it prints."""
    started = subprocess.Popen(
        [uv, *command, "--script", os.fspath(file)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    with started:
        try:
            shown, words = started.communicate(timeout=_SAY_AFTER_S)
        except subprocess.TimeoutExpired:
            print(f"aios: uv prepares the environment of {file} …", file=sys.stderr)
            shown, words = started.communicate()
    if started.returncode:
        raise InvalidArgument(
            f"uv cannot make the environment of {file}:\n{words.strip()}",
            "mend the file's # /// script block, or use: aios run --python PATH",
        )
    return shown
