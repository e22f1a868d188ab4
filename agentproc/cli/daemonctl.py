"""Start and stop the kernel from outside: for the command line, the benchmarks and tests.

Never polls: a pipe reports that the kernel is ready, a pidfd that it has ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq

from aios.syscalls import paths
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import AiosError, InvalidArgument, KernelUnavailable
from aios.syscalls.types.common import Empty

from . import out, parts

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
_PATHS: dict[str, Callable[[str], str]] = {
    "config": out.whole, "model": out.model,
    "lora": lambda files: ",".join(out.whole(each.strip()) for each in files.split(",")),
}  # fmt: skip
"""Settings that are paths of files."""
_VARIABLES = {f"AIOS_{key.upper()}": make for key, make in _PATHS.items()} | {
    "AIOS_RUNTIME_DIR": out.whole
}


def start(flags: Sequence[str] = (), env: Mapping[str, str] | None = None) -> int:
    """Start a kernel in the background, wait until it serves, and return its host pid.

    A kernel that runs already is left alone. Raises KernelUnavailable with the kernel's own message
    if it cannot start, or if its libraries are not installed.
    """
    env = _absolute(env)
    runtime = _runtime(env)
    running = paths.kernel_os_pid(runtime)
    if running is not None:
        return running
    log = _log_file(env)
    log_bytes = log.stat().st_size if log.exists() else 0
    program = parts.command("aios.kernel.daemon")
    reader, writer = os.pipe()
    # a shell in between, so that the kernel is nobody's child and leaves no zombie here
    command = [*program, "--ready-fd", str(writer), *flags]
    try:
        with log.open("ab") as output:
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command],
                pass_fds=(writer,), start_new_session=True, cwd="/", env=env, check=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        os.close(writer)
        said = _read_line(reader, START_TIMEOUT_S)
    finally:
        os.close(reader)
    running = paths.kernel_os_pid(runtime)
    if running is not None and (said == "READY" or "already" in said):
        return running  # ours, or somebody else was faster
    reason = _last_words(log, log_bytes) or said.removeprefix("ERROR ") or "it says nothing"
    raise KernelUnavailable(f"the kernel does not start: {reason}", f"its log is {log}")


def check(flags: Sequence[str]) -> None:
    """Raise InvalidArgument, with the kernel's own message, unless a kernel would accept these
    settings."""
    done = subprocess.run(
        parts.command("aios.kernel.daemon", "--check", *flags),
        cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        env=_absolute(None), check=False,
    )  # fmt: skip
    if done.returncode:
        message, _, hint = done.stderr.strip().removeprefix("aiosd: ").partition("\n")
        raise InvalidArgument(message, hint.strip())


def stop(runtime: Path) -> bool:
    """Stop the kernel and wait for its end; kill it as a last resort. Return False if none runs."""
    os_pid = paths.kernel_os_pid(runtime)
    if os_pid is None:
        return False
    try:
        fd = os.pidfd_open(os_pid)
    except OSError:
        return False
    try:
        try:
            with operator(runtime) as connection:
                connection.call("kernel.shutdown", Empty())
        except AiosError:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(fd, signal.SIGTERM)
        if not select.select([fd], [], [], STOP_TIMEOUT_S)[0]:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], STOP_TIMEOUT_S)
    finally:
        os.close(fd)
    return True


def operator(runtime: Path | None = None) -> Connection:
    """Return a connection to the operator's socket. Raises KernelUnavailable."""
    context: zmq.Context[Any] = zmq.Context.instance()
    return Connection(context, Credentials(runtime or paths.runtime_dir(), operator=True))


def system_call(name: str, body: msgspec.Struct, timeout_s: float | None = None) -> Any:
    """Make one call as the operator and return its reply. Raises AiosError."""
    with operator() as connection:
        return connection.call(name, body, timeout_s)


def kept(runtime: Path, flags: Sequence[str]) -> list[str]:
    """Return what the kernel that runs (or was killed) was started with, as flags, without what
    ``flags`` or a variable of ours sets."""
    try:
        found = msgspec.json.decode(paths.started_with(runtime).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return []
    given = {flag[2:].partition("=")[0].replace("_", "-") for flag in flags if flag[:2] == "--"}
    return [
        f"--{key}={value}" for key, value in found.items()
        if key not in given and f"AIOS_{key.upper().replace('-', '_')}" not in os.environ
    ]  # fmt: skip


def absolute(flags: Sequence[str]) -> list[str]:
    """Return flags with absolute paths: the kernel runs in another folder."""
    made, key = [], ""
    for word in flags:
        if word.startswith("--") and not key:
            key, equals, value = word[2:].partition("=")
            made.append(f"--{key}={_whole(key, value)}" if equals else word)
            key = "" if equals else key
        else:
            made.append(_whole(key, word))
            key = ""
    return made


def _whole(key: str, value: str) -> str:
    make = _PATHS.get(key.replace("_", "-"))
    return make(value) if make else value


def _absolute(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return an environment, by default ours, with absolute paths in AIOS's own variables."""
    made = dict(os.environ if env is None else env)
    for name, make in _VARIABLES.items():
        if made.get(name):
            made[name] = make(made[name])
    return made


def _runtime(env: Mapping[str, str] | None) -> Path:
    named = (env or os.environ).get("AIOS_RUNTIME_DIR")
    return Path(named) if named else paths.runtime_dir()


def _log_file(env: Mapping[str, str] | None) -> Path:
    state = (env or os.environ).get("XDG_STATE_HOME", "")
    folder = Path(state) / "aios" if state.startswith("/") else paths.state_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KernelUnavailable(
            f"cannot make the log folder {folder}: {error.strerror}", "set XDG_STATE_HOME"
        ) from None
    return folder / "aiosd.log"


def _read_line(fd: int, patience_s: float) -> str:
    data = b""
    while b"\n" not in data:
        if not select.select([fd], [], [], patience_s)[0]:
            return "ERROR it was not ready in time"
        part = os.read(fd, 4096)
        if not part:
            break
        data += part
    return data.decode("utf-8", "replace").strip()


def _last_words(path: Path, start: int) -> str:
    """Return what a kernel that failed to start wrote: its error, and what to do."""
    text = path.read_bytes()[start:].decode("utf-8", "replace")
    _, found, words = text.rpartition("aiosd: ")
    return words.strip() if found else text.strip()[-2000:]
