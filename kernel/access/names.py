"""Whose the names of agents are: theirs are the homes, notes and contexts.

What an agent stores is found again by its name. So that nobody gets at it by starting a child of
that name, every name that was used belongs to somebody: the operator, or the program at the top of
a child's tree, by its name (its root). A child has a name of its own root, or one that is nobody's
yet; for any other it needs the right ``agent.name``, and does not become its owner.

The operator may ask for any name, and it is the operator's from then on: the program whose
children had it needs the right to use it again, and finds what they stored only then. Without a
name asked for, the operator's agents too pass over names of children, so that nobody loses its
things because two files are called the same. A name for which the operator mounts a folder, and
that is nobody's yet, is the operator's. Names are never forgotten.

In the file each line is ``NAME`` (the operator's) or ``NAME<TAB>ROOT`` (a child's). Of several
lines for one name the operator's counts, else the first. Lines are written behind the use of a
name: a crash loses at most the newest.
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
"""The root of names that are the operator's."""
MOST_OF_ROOT = 10_000
"""Names that the children of one root may have."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_LINE = re.compile(rf"({_NAME})(?:\t({_NAME}))?")
_MOST_DIGITS = 9


class Names:
    """``later`` runs a job that may block; without a file, names are known until the end only.

    What is done for one name does not grow with the number of names, but for the logarithm of it
    (and moving at most as many numbers in a list).
    """

    def __init__(
        self,
        path: Path | None = None,
        later: Callable[[Callable[[], None]], None] = lambda job: None,
    ) -> None:
        """Raises OSError when there is a file that cannot be read."""
        self._path, self._later = path, later
        self._roots: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._numbers: dict[tuple[str, str], list[int]] = {}
        """By root and stem: which of STEM (1), STEM-2, STEM-3, … are the root's, in order."""
        if path and path.exists():
            self._load(path)

    def root(self, name: str) -> str | None:
        """Whose a name is; None: nobody's yet."""
        return self._roots.get(name)

    def take(self, name: str, root: str) -> None:
        """An agent of this root gets this name; one that is another program's stays that one's,
        unless the operator takes it. Raises ResourceExhausted, and changes nothing then."""
        before = self._roots.get(name)
        if before == root or (before is not None and root != OPERATORS):
            return
        if self._full(root):
            raise ResourceExhausted(
                f"children of {root} have had {MOST_OF_ROOT:,} different names, the most there "
                "can be",
                "give them names that they had before; the operator can run the program by "
                "another name, too: aios run --name",
            )
        if before is not None:
            log.info("the name %s, which children of %s had, is the operator's now", name, before)
        self._enter(name, root)
        path, line = self._path, f"{name}\t{root}" if root else name
        if path:
            self._later(lambda: _append(path, line))

    def reserve(self, name: str) -> None:
        """The name is the operator's, unless it is somebody's."""
        if name not in self._roots:
            self.take(name, OPERATORS)

    def free(self, stem: str, root: str, barred: Callable[[str], bool]) -> str:
        """A name for an agent of this root that asks for none: the first of STEM, STEM-2, STEM-3
        … that is the root's or nobody's and not ``barred`` (as those of living agents are). So a
        program's agents get the same names at its next run. Where the root can have no more names,
        it is one of its own, if there is one.
        """
        own = (n for n in self._numbers.get((root, stem), ()) if not barred(_numbered(stem, n)))
        fresh = self._fresh(stem, barred)
        first = next(own, fresh)
        return _numbered(stem, first if self._full(root) else min(first, fresh))

    def _full(self, root: str) -> bool:
        return root != OPERATORS and self._counts[root] >= MOST_OF_ROOT

    def _fresh(self, stem: str, barred: Callable[[str], bool]) -> int:
        """A number that is nobody's; the first when none was left out. In logarithmic time."""

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
            log.warning("%s is damaged in line %s: skipped; who uses the names there first has "
                        "them", path, ", ".join(damaged[:20]))  # fmt: skip


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}-{number}"


def _stems(name: str) -> list[tuple[str, int]]:
    """Of which stems, and as which number, a name may be chosen: worker-2, 1; worker, 2."""
    stem, _, digits = name.rpartition("-")
    numbered = stem and digits.isdecimal() and digits[0] != "0" and len(digits) <= _MOST_DIGITS
    return [(name, 1), *([(stem, int(digits))] if numbered and digits != "1" else [])]


def _append(path: Path, line: str) -> None:
    """Raises OSError. What a failure or a power cut has left of a line before is made no name."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        data = (b"\t\n" if torn else b"") + f"{line}\n".encode()
        if os.write(fd, data) != len(data):
            raise OSError(f"{path}: no room for the name {line!r}")
    finally:
        os.close(fd)
