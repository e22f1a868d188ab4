"""The kernel's programs, as the command line starts them or becomes them.

The SDK and the command line can be installed without the kernel's libraries. A command that needs
a program of the kernel asks here, and fails with the way to install the libraries that are missing.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from typing import Any, NoReturn

from aios.syscalls.errors import InvalidArgument, KernelUnavailable

from . import out


def command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module of the kernel.

    Raises KernelUnavailable if the kernel's libraries are not installed.
    """
    missing = [name for name in _libraries() if not _installed(name)]
    if missing:
        raise KernelUnavailable(
            f"the kernel's libraries are not installed here: {', '.join(missing)}",
            f"install them with: {sys.executable} -m pip install 'aiosd[kernel]'",
        )
    return [sys.executable, "-P", "-m", module, *words]


def become(module: str, *words: str) -> NoReturn:
    """Replace this process with a module of the kernel. Raises KernelUnavailable."""
    line = command(module, *words)
    os.execv(line[0], line)


def answer(module: str, *words: str) -> Any:
    """Run a module of the kernel that prints JSON; return that.

    Raises KernelUnavailable, or InvalidArgument with the module's own message: the first line it
    wrote to stderr, and the rest as the hint.
    """
    done = subprocess.run(
        command(module, *words), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        message, _, hint = done.stderr.strip().partition("\n")
        raise InvalidArgument(message or f"{module} ended with {done.returncode}", hint.strip())
    return json.loads(done.stdout)


def aiosd() -> int:
    """Run the kernel: the console script ``aiosd``."""
    try:
        command("aios.kernel.daemon")
    except KernelUnavailable as error:
        out.complain(error)
        return 1
    return int(importlib.import_module("aios.kernel.daemon").main())


def _libraries() -> list[str]:
    """Return the distributions that the extra ``kernel`` of aiosd names."""
    from importlib import metadata  # slow to import

    try:
        required = metadata.requires("aiosd") or []
    except metadata.PackageNotFoundError:  # run from its source
        return []
    return [
        found[0]
        for each in required
        if re.search(r"extra == ['\"]kernel['\"]", each) and (found := re.match(r"[\w.-]+", each))
    ]


def _installed(name: str) -> bool:
    from importlib import metadata

    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
