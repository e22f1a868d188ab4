"""Which Python runs an agent: the one of the caller's environment, or one that the caller names.

In this order: ``--python``; the environment that uv makes for the file's ``# /// script`` block;
the active virtual environment; ``python`` on the PATH if it can run agents; the kernel's own.
An interpreter is examined by running it once. The cache keeps the result until the interpreter, a
folder of its import path, or this package changes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

import aios
from aios.syscalls import paths
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.launch import interpreter

from . import script

OLDEST = (3, 11)
_CHECK_TIMEOUT_S = 30.0
_CHECK = """
import json, os, site, sys
found = {"path": sys.executable, "version": list(sys.version_info[:2]), "release": "", "error": ""}
try:
    import aios.boot.zygote
except Exception as error:
    found["error"] = "%s: %s" % (type(error).__name__, error)
try:
    from importlib import metadata
    found["release"] = metadata.version("aiosd")
except Exception:
    pass
found["folders"] = [part for part in sys.path if part] + [site.getusersitepackages()]
print(json.dumps(found))
"""
"""Runs in any Python, an old one too."""


class Python(msgspec.Struct, frozen=True):
    """An interpreter. ``problem`` and ``hint`` say why it cannot run agents, if it cannot."""

    path: str
    version: tuple[int, int]
    problem: str = ""
    hint: str = ""
    mtimes: dict[str, float] = {}
    """Stamp of everything that the fields above depend on."""


class _Shown(msgspec.Struct, frozen=True):
    """The output of the check."""

    path: str
    version: tuple[int, int]
    release: str
    error: str
    folders: list[str]


def choose(file: Path, wanted: str | None) -> Python | None:
    """Return the interpreter for an agent's file; None is the kernel's own.

    ``wanted`` is the value of --python. Raises InvalidArgument if the interpreter that is asked
    for, by name, by an active environment or by the file's block, cannot run agents.
    """
    if wanted is not None:
        return usable(_named(wanted))
    if script.demands(file):
        return usable(script.environment(file), script.ADD_AIOSD)
    active = os.environ.get("VIRTUAL_ENV")
    if active:
        return usable(os.path.join(active, "bin", "python"))
    found = shutil.which("python") or shutil.which("python3")
    with contextlib.suppress(InvalidArgument):
        return usable(found) if found else None
    return None


def usable(path: str, hint: str = "") -> Python:
    """Return an interpreter that can run agents. Raises InvalidArgument with the way to mend it."""
    python = _examine(path)
    if python.problem:
        raise InvalidArgument(f"{path} {python.problem}", hint or python.hint)
    return python


def _named(wanted: str) -> str:
    """Return the path of the interpreter or environment that the caller names."""
    path = os.path.join(wanted, "bin", "python") if os.path.isdir(wanted) else wanted
    found = shutil.which(path)
    if not found:
        raise InvalidArgument(f"--python {wanted}: no such program", "give the path of a Python")
    return found


def _examine(path: str) -> Python:
    """Return what is known of an interpreter; run it if the cache does not know. Raises
    InvalidArgument if it does not run."""
    path = os.path.abspath(path)
    if _is_script(path):  # a shim, like pyenv's: it can choose another Python at any time
        path = _run(path, "import sys; print(sys.executable)", None).strip()
    ours = Python(interpreter(sys.executable, sys.version_info[:2]), sys.version_info[:2])
    if interpreter(path, ours.version) == ours.path:
        return ours
    cache = paths.cache_dir() / "pythons.json"
    known = _read(cache)
    python = known.get(path)
    if python is None or any(_mtime(each) != was for each, was in python.mtimes.items()):
        python = _judge(path, _run(path, _CHECK, "/"))
        _write(cache, {p: kept for p, kept in known.items() if os.path.exists(p)} | {path: python})
    return python


def _judge(path: str, shown: str) -> Python:
    """Say if an interpreter can run agents, by the output of the check. Raises InvalidArgument."""
    try:
        found = msgspec.json.decode(shown.strip().rpartition("\n")[2], type=_Shown)
    except msgspec.DecodeError:
        raise InvalidArgument(f"{path} is no Python", "name one: aios run --python PATH") from None
    known_as = interpreter(found.path or path, found.version)
    install, ours = f"install it there: {known_as} -m pip install aiosd", _release()
    problem = hint = ""
    if found.version < OLDEST:
        version, oldest = (".".join(map(str, each)) for each in (found.version, OLDEST))
        problem = f"is Python {version}; an agent needs {oldest} or newer"
        hint = "name another: aios run --python PATH"
    elif found.error:
        problem, hint = f"cannot import aios: {found.error}", install
    elif ours and found.release not in ("", ours):
        problem = f"has aiosd {found.release}; this is aiosd {ours}"
        hint = f"{install}=={ours}"
    depends = [path, aios.__path__[0], *found.folders]
    mtimes = {each: _mtime(each) for each in depends}
    return Python(known_as, found.version, problem, hint, mtimes)


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _run(path: str, code: str, folder: str | None) -> str:
    """Run code with an interpreter, which ignores PYTHON* variables as a zygote's does; return
    what it prints. Raises InvalidArgument."""
    try:
        done = subprocess.run(
            [path, "-E", "-c", code], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=_CHECK_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        words = str(getattr(error, "stderr", "") or error).strip()[-500:]
        raise InvalidArgument(
            f"{path} does not run: {words}",
            "leave its environment with: deactivate; or name a Python: aios run --python PATH",
        ) from None
    return done.stdout


def _release() -> str:
    from importlib import metadata

    try:
        return metadata.version("aiosd")
    except metadata.PackageNotFoundError:  # run from its source
        return ""


def _mtime(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _read(cache: Path) -> dict[str, Python]:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, Python])
    except (OSError, msgspec.DecodeError):
        return {}


def _write(cache: Path, known: dict[str, Python]) -> None:
    """Replace the cache's file as a whole. Losing it costs time only."""
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=cache.parent, delete=False) as file:
            try:
                file.write(msgspec.json.encode(known))
                file.flush()
                os.replace(file.name, cache)
            except OSError:
                os.unlink(file.name)
