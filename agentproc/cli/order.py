"""The requests of ``aios run``: one agent for each file, with the caller's environment and options.

Files that cannot be agents are refused here, before a kernel is started for them.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import warnings
from pathlib import Path

from aios.syscalls import codec
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.process import SpawnRequest

from . import out, pythons

NOT_EXECUTABLE, NOT_FOUND = 126, 127
_NAME_A_FILE = "name a Python file: aios run agent.py"


class CannotRun(InvalidArgument):
    """A file cannot be an agent. ``exit_code`` is as the shell's for a command."""

    def __init__(self, message: str, hint: str, exit_code: int = NOT_EXECUTABLE) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


def requests(options: argparse.Namespace) -> list[SpawnRequest]:
    """Return the request for each file. Raises CannotRun, InvalidArgument."""
    chosen = [_python(file, options.python) for file in options.files]
    if len(options.files) > 1 and options.name:
        raise InvalidArgument("--name names one agent; several files were given")
    environment = _environment(options)
    return [
        _request(options, Path(file), environment, python)
        for file, python in zip(options.files, chosen, strict=True)
    ]


def _python(file: str, wanted: str | None) -> pythons.Python | None:
    """Return the interpreter for a file, after a look at the file. Raises CannotRun."""
    path = Path(file)
    try:
        if not file:
            raise FileNotFoundError
        if path.exists() and not path.is_file():  # a device or a pipe might have no end
            raise ValueError("it is a folder" if path.is_dir() else "it is no ordinary file")
        source = path.read_bytes()
    except FileNotFoundError:
        raise CannotRun(f"{file or repr(file)}: no such file", _NAME_A_FILE, NOT_FOUND) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotRun(f"{file} cannot be run: {reason}", _NAME_A_FILE) from None
    python = pythons.choose(path, wanted)
    if python is None or python.version == sys.version_info[:2]:  # another has another syntax
        _compile(file, source)
    return python


def _compile(file: str, source: bytes) -> None:
    """Raise CannotRun if this is not the source of a program."""
    try:
        with warnings.catch_warnings(action="ignore"):  # the agent itself is told
            compile(source, file, "exec")
    except SyntaxError as error:
        raise CannotRun(
            f"{file} cannot be run: line {error.lineno or 1}: {type(error).__name__}: {error.msg}",
            f"mend it and run it again: aios run {file}",
        ) from None
    except (MemoryError, RecursionError):
        raise CannotRun(
            f"{file} cannot be run: it is nested too deeply", "make it simpler"
        ) from None
    except ValueError as error:
        raise CannotRun(f"{file} cannot be run: {error}", _NAME_A_FILE) from None


def _request(
    options: argparse.Namespace,
    file: Path,
    environment: dict[str, str],
    python: pythons.Python | None,
) -> SpawnRequest:
    alone = len(options.files) == 1 and not options.detach
    whole = Path(out.whole(str(file)))
    whole = whole.resolve() if ".." in file.parts else whole
    wanted = {
        "path": str(whole), "args": options.args, "cwd": out.here(),
        "env": environment, "name": options.name, "nice": options.nice, "klass": options.klass,
        "max_tokens": options.max_tokens, "timeout_s": options.timeout,
        "model": out.model(options.model) if options.model else None,
        "weight": options.weight, "quota_tokens": options.quota_tokens,
        "quota_cells": options.quota_cells, "stdin": _stdin() if alone else None,
        "group": options.group, "allow": options.allow, "deny": options.deny,
        "asks": not options.detach and _at_terminal(),
        "python": python.path if python else None,
    }  # fmt: skip
    return codec.convert(wanted, SpawnRequest)


def _environment(options: argparse.Namespace) -> dict[str, str]:
    """Return our environment with --env's changes, without variables that are not UTF-8: those
    cannot be sent, and seldom matter to an agent."""
    kept, odd = {}, []
    for name, value in os.environ.items():
        try:
            f"{name}={value}".encode()
            kept[name] = value
        except UnicodeEncodeError:
            odd.append(out.plain(name))
    if odd:
        out.complain(f"not passed on, as they are no UTF-8: {', '.join(sorted(odd))}")
    for pair in options.env:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"--env {pair!r} is not NAME=VALUE")
        kept[name] = value
    return kept


def _at_terminal() -> bool:
    """Return True if a person sits here who can be asked what may be done."""
    if not (os.isatty(0) and os.isatty(2)):
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _stdin() -> str | None:
    """Return our standard input as a path that the agent can open, None if it cannot."""
    try:
        if stat.S_ISSOCK(os.fstat(0).st_mode):
            return None
    except OSError:
        return None
    return f"/proc/{os.getpid()}/fd/0"
