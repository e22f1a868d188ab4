"""Where files are: XDG folders, the runtime folder, its sockets and its lock.

An environment variable can move each path. Nothing is created at import.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
from pathlib import Path

from .errors import KernelUnavailable

_FLOCK = "hhqqi"  # struct flock of 64-bit Linux, native alignment
_SOCKET_PATH_LIMIT = 107

START_HINT = "start it with: aios daemon up"


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    base = Path(value) if value.startswith("/") else Path.home() / default
    return base / "aios"


def config_file() -> Path:
    """The configuration file; AIOS_CONFIG moves it. It need not exist."""
    named = os.environ.get("AIOS_CONFIG")
    return Path(named).absolute() if named else _xdg("XDG_CONFIG_HOME", ".config") / "config.toml"


def policy_file() -> Path:
    """The policy file with the privilege groups, next to the configuration file. It need not
    exist."""
    return config_file().with_name("policy.toml")


def grants_file() -> Path:
    """The rights that the operator has granted."""
    return data_dir() / "grants.json"


def names_file() -> Path:
    """The owners of agents' names."""
    return data_dir() / "names"


def questions_dir(runtime: Path) -> Path:
    """Questions to the operator, and answers not used yet."""
    return data_dir() / "approvals" / _id(runtime)


def audit_dir(runtime: Path) -> Path:
    """The audit log of the kernels of one runtime folder."""
    return state_dir() / "audit" / _id(runtime)


def audit_key() -> Path:
    """The key of all audit logs of this user. Kept apart from them."""
    return data_dir() / "audit" / "key"


def audit_anchor(runtime: Path) -> Path:
    """The length of an audit log so far. Kept apart from the log."""
    return data_dir() / "audit" / f"{_id(runtime)}.anchor"


def _id(runtime: Path) -> str:
    """Return a short id, different for each runtime folder."""
    return hashlib.blake2b(os.fsencode(runtime.resolve()), digest_size=6).hexdigest()


def cache_dir() -> Path:
    """Return the folder of files that can be computed again."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def data_dir() -> Path:
    """Return the folder of lasting files: models, storage, notes, grants."""
    return _xdg("XDG_DATA_HOME", ".local/share")


def tools_dir() -> Path:
    """State of the tool manager: sources, approvals, keys."""
    return data_dir() / "tools"


def secrets_file() -> Path:
    """Keys of API tools and MCP servers, readable by this user alone."""
    return tools_dir() / "secrets.json"


def mcp_file() -> Path:
    """The common mcpServers JSON, next to the configuration file."""
    return config_file().with_name("mcp.json")


def state_dir() -> Path:
    """Logs."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def runtime_dir() -> Path:
    """The folder of one kernel: its lock and sockets. AIOS_RUNTIME_DIR moves it."""
    named = os.environ.get("AIOS_RUNTIME_DIR")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/") and os.path.isdir(base):
        return Path(base) / "aios"
    return Path(f"/tmp/aios-{os.getuid()}")


def agents_endpoint(runtime: Path) -> str:
    """The endpoint that agents connect to."""
    return f"ipc://{runtime}/agents.sock"


def operator_endpoint(runtime: Path) -> str:
    """The endpoint that the operator's command line connects to."""
    return f"ipc://{runtime}/operator.sock"


def lock_file(runtime: Path) -> Path:
    """The file that a kernel locks for its whole life."""
    return runtime / "aiosd.lock"


def started_with(runtime: Path) -> Path:
    """The settings that the kernel was started with, for its restart: a JSON object. It is removed
    when the kernel ends as it should."""
    return runtime / "started-with.json"


def prepare_runtime_dir(runtime: Path) -> None:
    """Create the folder, private to this user.

    Raises OSError if it cannot be created, PermissionError if it belongs to another user,
    ValueError if its path is not UTF-8 or too long for a socket.
    """
    longest = len(os.fsencode(runtime / "operator.sock"))
    if longest > _SOCKET_PATH_LIMIT:
        raise ValueError(
            f"runtime folder {runtime} is too long: a socket's path has {longest} bytes, the "
            f"system's limit is {_SOCKET_PATH_LIMIT}; set AIOS_RUNTIME_DIR to a shorter path"
        )
    try:
        str(runtime).encode()
    except UnicodeEncodeError:
        raise ValueError("its path is not UTF-8; set AIOS_RUNTIME_DIR to one that is") from None
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = runtime.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(
            f"runtime folder {runtime} is not a folder of this user; "
            "set AIOS_RUNTIME_DIR to one that is"
        )
    if found.st_mode & 0o077:
        runtime.chmod(0o700)


def kernel_os_pid(runtime: Path) -> int | None:
    """Return the host pid of the kernel that holds this runtime folder, or None.

    Queries the lock without taking it.
    """
    try:
        fd = os.open(lock_file(runtime), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelUnavailable(
            f"cannot read the runtime folder {runtime}: {error.strerror}",
            "set AIOS_RUNTIME_DIR to a folder of your own",
        ) from None
    try:
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, query))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else pid


def require_kernel(runtime: Path) -> int:
    """Return the kernel's host pid. Raises KernelUnavailable with the command that starts one."""
    pid = kernel_os_pid(runtime)
    if pid is None:
        raise KernelUnavailable(f"no AIOS kernel runs in {runtime}", START_HINT)
    return pid
