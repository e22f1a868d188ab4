"""Names of agents: which program owns each, and so the home, notes and contexts stored under it.

Stored data is found by the agent's name. So that a program cannot reach it by starting a child of
that name, every used name has an owner, its root: the operator, or the program at the top of a
child's tree, by name. A child may take a name of its own root or a free one. Any other name needs
the right ``agent.name``, and does not change its owner.

The operator may request any name and becomes its owner: the program whose children used it then
needs the right to use it again, and to reach their data. Agents of the operator without a requested
name skip names of children, so that two files with the same name do not cost a program its data. A
free name for which the operator mounts a folder becomes the operator's. Names are never released.

Each line of the file is ``NAME`` (the operator's) or ``NAME<TAB>ROOT`` (a child's). Of several
lines for one name the operator's counts, else the first. Lines are written after the name is in
use: a crash loses at most the newest ones.
"""

from __future__ import annotations

import bisect
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from aios.syscalls.errors import ResourceExhausted

log = logging.getLogger("aios.names")

OPERATORS = ""
"""The root of the operator's names."""
MAX_NAMES = 10_000
"""Limit on names of the children of one root."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_LINE = re.compile(rf"({_NAME})(?:\t({_NAME}))?")
_MAX_DIGITS = 9


class Names:
    """The owner of every used name. ``later`` runs a job that may block; without a path, names are
    kept in memory only.

    An operation takes time logarithmic in the number of names, plus one insertion into a list.
    """

    def __init__(
        self,
        path: Path | None = None,
        later: Callable[[Callable[[], None]], None] = lambda job: None,
    ) -> None:
        """Raises OSError when the file exists but cannot be read."""
        self._path, self._later = path, later
        self._roots: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._numbers: dict[tuple[str, str], list[int]] = {}
        """Sorted numbers, by root and stem, of the root's names STEM (1), STEM-2, STEM-3, …"""
        if path and path.exists():
            self._load(path)

    def root(self, name: str) -> str | None:
        """Return the owner of a name; None if it is free."""
        return self._roots.get(name)

    def take(self, name: str, root: str) -> None:
        """Record that an agent of this root uses a name. Another program's name keeps its owner,
        unless the operator takes it. Raises ResourceExhausted and then changes nothing."""
        before = self._roots.get(name)
        if before == root or (before is not None and root != OPERATORS):
            return
        if self._full(root):
            raise ResourceExhausted(
                f"children of {root} have had {MAX_NAMES:,} different names, which is the limit",
                "reuse names that they had before; the operator can also run the program under "
                "another name: aios run --name",
            )
        if before is not None:
            log.info("the name %s, which children of %s had, is the operator's now", name, before)
        self._enter(name, root)
        path, line = self._path, f"{name}\t{root}" if root else name
        if path:
            self._later(lambda: _append(path, line))

    def reserve(self, name: str) -> None:
        """Make a free name the operator's."""
        if name not in self._roots:
            self.take(name, OPERATORS)

    def free(self, stem: str, root: str, barred: Callable[[str], bool]) -> str:
        """Choose a name for an agent of this root that requested none.

        It is the first of STEM, STEM-2, STEM-3, … that is free or the root's, and not ``barred`` as
        the name of a living agent. So a program's agents get the same names on its next run. A root
        at its limit reuses one of its own names if possible.
        """
        own = (n for n in self._numbers.get((root, stem), ()) if not barred(_numbered(stem, n)))
        fresh = self._fresh(stem, barred)
        first = next(own, fresh)
        return _numbered(stem, first if self._full(root) else min(first, fresh))

    def _full(self, root: str) -> bool:
        return root != OPERATORS and self._counts[root] >= MAX_NAMES

    def _fresh(self, stem: str, barred: Callable[[str], bool]) -> int:
        """Find a free number in logarithmic time; the first one if the used ones have no gaps."""

        def known(number: int) -> bool:
            name = _numbered(stem, number)
            return name in self._roots or barred(name)

        low, high = 0, 1
        while known(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if known(middle) else (low, middle)
        return high

    def _enter(self, name: str, root: str) -> None:
        before = self._roots.get(name)
        for stem, number in _stems(name):
            if before is not None:
                theirs = self._numbers[before, stem]
                del theirs[bisect.bisect_left(theirs, number)]
                if not theirs:
                    del self._numbers[before, stem]
            bisect.insort(self._numbers.setdefault((root, stem), []), number)
        if before is not None:
            self._counts[before] -= 1
        self._counts[root] += 1
        self._roots[name] = root

    def _load(self, path: Path) -> None:
        *lines, torn = path.read_text("utf-8", "replace").split("\n")
        damaged = []
        for number, line in enumerate(lines, 1):
            found = _LINE.fullmatch(line)
            if found is None:
                damaged.append(str(number))
                continue
            name, root = found[1], sys.intern(found[2] or OPERATORS)
            before = self._roots.get(name)
            if before is None or (root == OPERATORS != before):
                self._enter(name, root)
        if torn:
            damaged.append(str(len(lines) + 1))
        if damaged:
            log.warning("%s is damaged in line %s: skipped; the names there belong to their next "
                        "user", path, ", ".join(damaged[:20]))  # fmt: skip


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}-{number}"


def _stems(name: str) -> list[tuple[str, int]]:
    """Return each stem and number that make up a name: (worker-2, 1) and (worker, 2)."""
    stem, _, digits = name.rpartition("-")
    numbered = stem and digits.isdecimal() and digits[0] != "0" and len(digits) <= _MAX_DIGITS
    return [(name, 1), *([(stem, int(digits))] if numbered and digits != "1" else [])]


def _append(path: Path, line: str) -> None:
    """Append a line, and invalidate a torn line before it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        data = (b"\t\n" if torn else b"") + f"{line}\n".encode()
        if os.write(fd, data) != len(data):
            raise OSError(f"{path}: no space for the name {line!r}")
    finally:
        os.close(fd)
