"""The names of agents that the operator has run: theirs are the homes, notes and contexts.

What an agent stores is found again by its name. So that nobody gets at it by starting a child of
that name, such names are kept, one a line; a child needs the right ``agent.name`` on one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


class OperatorsNames:
    """``later`` runs a job that may block; without a file, names are known until the end only."""

    def __init__(
        self,
        path: Path | None = None,
        later: Callable[[Callable[[], None]], None] = lambda job: None,
    ) -> None:
        """Raises OSError when there is a file that cannot be read."""
        self._path, self._later = path, later
        self._names: set[str] = set()
        if path and path.exists():
            self._names.update(path.read_text("utf-8", "replace").splitlines())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        """The operator runs an agent of this name."""
        path = self._path
        if name not in self._names:
            self._names.add(name)
            if path:
                self._later(lambda: _append(path, name))


def _append(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{name}\n".encode())
    finally:
        os.close(fd)
