"""The memory available to us: the machine's, or the limit of our container if that is lower."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_PROC, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return the least of the machine's memory and our cgroups' limits (versions 1 and 2)."""
    return min([psutil.virtual_memory().total, *_limits(proc, cgroups)])


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    try:
        lines = proc.read_text("utf-8", "replace").splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            yield from _up(cgroups, group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _up(cgroups / "memory", group, "memory.limit_in_bytes")


def _up(mount: Path, group: str, name: str) -> Iterator[int]:
    """Yield the limits of a group and of all its ancestors.

    In a container the mount may be the group itself; the group's path does not exist there.
    """
    folder = mount / group.strip("/")
    for each in (folder, *folder.parents):
        if each.is_relative_to(mount):
            try:
                text = (each / name).read_text("ascii").strip()
            except (OSError, UnicodeDecodeError):
                continue
            if text.isdecimal():
                yield int(text)
