"""The child that the zygote forks: its steps before and after the agent's own code.

The process becomes a session of its own, which dies with the zygote, gains no privileges and adopts
its orphans. Then the file runs as ``__main__``, as ``python file`` would run it. Exit codes of the
boot itself: 127 no such file, 126 it cannot be run, 125 the process cannot be set up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import runpy
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from types import CodeType
from typing import NoReturn

from aios import session
from aios.syscalls.client import Credentials
from aios.syscalls.launch import Fork

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
MAX_FILES = 1024
HOST_NICE = 10
"""The host's nice value of agents and tools."""


def prctl(option: int, value: int) -> None:
    """prctl(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def become(order: Fork, runtime: Path, zygote_os_pid: int) -> NoReturn:
    """Run the agent. Never return to the zygote's code."""
    code = 125
    try:
        _isolate(zygote_os_pid)
        _open_stdio(order)
        _settle(order, runtime)
        code = _run(order)
    except OSError as error:
        _say(f"aios: cannot start {order.path}: {error}")
    finally:
        _leave(code)


def follow(parent: int) -> bool:
    """Die with the parent, and adopt orphans below us. Return False if the parent is gone."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    return os.getppid() == parent


def begin_session() -> None:
    """Start a session that gives way to the model's core when both want a processor.

    With autogroups, Linux weighs sessions before processes. An agent that starts in the same tenth
    of a second as another may keep its session's weight, unless the kernel runs as root.
    """
    os.setsid()
    os.nice(HOST_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(HOST_NICE))


def _isolate(zygote_os_pid: int) -> None:
    begin_session()
    if not follow(zygote_os_pid):
        os._exit(125)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(MAX_FILES, most), min(MAX_FILES, most)))


def _open_stdio(order: Fork) -> None:
    """Open stdin, stdout and stderr by their paths; close everything else of the zygote's."""
    opened = [
        _open_input(order.stdin or os.devnull),
        _open_output(order.stdout, order.log),
        _open_output(order.stderr, order.log),
    ]
    for target, fd in enumerate(opened):
        os.dup2(fd, target)
    os.closerange(3, 1024)
    # ruff: noqa: SIM115  they stay open until the process ends
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = open(
        2, "w", encoding="utf-8", buffering=1, errors="backslashreplace", closefd=False
    )


def _open_input(path: str) -> int:
    """Open a file or pipe; do not wait for writers of a pipe that has none."""
    fd = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd


def _open_output(path: str, log: str) -> int:
    """Open an output; open the log instead of a FIFO without a reader."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
    except OSError:
        fd = os.open(log, flags, 0o600)
    os.set_blocking(fd, True)
    return fd


def _settle(order: Fork, runtime: Path) -> None:
    """Set signals, environment, folder, arguments, import path and credentials."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order.env)
    os.chdir(order.cwd)
    random.seed()
    sys.argv = [order.path, *order.args]
    extra = [os.path.abspath(part) for part in order.env.get("PYTHONPATH", "").split(":") if part]
    sys.path[:0] = [str(Path(order.path).parent), *extra]
    session.adopt(Credentials(runtime, order.user, order.secret))


def _run(order: Fork) -> int:
    program = _load(order.path)
    if isinstance(program, int):
        return program
    try:
        runpy.run_path(order.path, run_name="__main__")
    except SystemExit as end:
        return _exit_code(end)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException as error:  # the agent's own: show it as the interpreter would
        _show(error, order.path)
        return 1
    return 0


def _load(path: str) -> CodeType | int:
    """Compile the file; return an exit code if that fails, after saying why."""
    try:
        with warnings.catch_warnings(action="ignore"):  # shown when it is compiled again to run
            return compile(Path(path).read_bytes(), path, "exec")
    except FileNotFoundError:
        _say(f"aios: {path}: no such file")
        return 127
    except SyntaxError as error:
        traceback.print_exception(None, error, None)
        return 126
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        _say(f"aios: {path} cannot be run: {error or type(error).__name__}")
        return 126


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    _say(str(end.code))
    return 1


def _show(error: BaseException, path: str) -> None:
    """Print the traceback from the agent's file on, without the frames of the boot."""
    frame = error.__traceback__
    while frame and frame.tb_frame.f_code.co_filename != path:
        frame = frame.tb_next
    traceback.print_exception(type(error), error, frame or error.__traceback__)


def _leave(code: int) -> NoReturn:
    """End as the interpreter does: join threads, run exit functions, flush output."""
    import atexit

    try:
        with contextlib.suppress(Exception):
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
