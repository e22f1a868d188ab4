"""Virtual environments with only the client, made without a package index."""

from __future__ import annotations

import venv
from importlib.util import find_spec
from pathlib import Path

CLIENT = ("zmq", "pyzmq.libs", "msgpack", "msgspec")


def make(folder: Path, client: bool = True) -> Path:
    """Make an environment; return its interpreter. Without ``client`` it cannot import aios."""
    venv.EnvBuilder(symlinks=True).create(folder)
    if client:
        add_client(folder)
    return folder / "bin" / "python"


def add_client(folder: Path) -> None:
    """Let an environment import aios and the dependencies of the client."""
    spec, zmq = find_spec("aios"), find_spec("zmq")
    assert spec and spec.origin and zmq and zmq.origin
    packages = Path(zmq.origin).parent.parent
    for name in CLIENT:
        if (packages / name).exists():
            (site(folder) / name).symlink_to(packages / name)
    (site(folder) / "aios").symlink_to(Path(spec.origin).parent)


def site(folder: Path) -> Path:
    """Return the folder of an environment's packages."""
    (found,) = folder.glob("lib/python*/site-packages")
    return found
