"""Forks processes that write to one storage folder until they are killed; test_storage_crash's.

Reads a line ``SEED`` on stdin for each; the process tells on stdout its host pid, what it found in
the folder, and then each write before it asks for it and each that was acknowledged.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from aios.kernel.worker import Outcome
from aios.syscalls import storage_types as s
from tests.kernel.storage_rig import Rig, resolve

FILES = 12
KEEP = 6
"""Versions of a file; older ones that were acknowledged have been pruned."""
IN_FLIGHT = 6


def say(*words: Any) -> None:
    """One line, at once: what a pipe has taken outlives us."""
    os.write(1, (json.dumps(words) + "\n").encode())


def content(seed: int, number: int, rng: random.Random) -> bytes:
    """Mostly small, some that become blobs; no two alike."""
    size = rng.choice((10, 300, 4096, 4096, 20_000, 70_000, 1_200_000))
    return f"{seed}/{number} ".encode() + rng.randbytes(size)


def child(folder: Path, seed: int) -> None:
    """Tell what is there, then write for ever."""
    rng = random.Random(seed)
    rig = Rig(folder, keep=KEEP)
    report = rig.check()
    say("problems", report.problems)
    for path in rig.names("bob"):
        for version in rig.history("bob", path):
            if version.how != "delete":
                data = b"".join(iter(Parts(rig, path, version)))
                say("found", path, version.version, hashlib.sha256(data).hexdigest())
            else:
                say("found", path, version.version, "deleted")
    say("writing")
    number = 0
    waiting: list[int] = []
    while True:
        while len(waiting) < IN_FLIGHT:
            number += 1
            waiting.append(number)
            path = f"/f{rng.randrange(FILES)}"
            data = content(seed, number, rng)
            say("try", path, hashlib.sha256(data).hexdigest())

            def done(outcome: Outcome[s.FileInfo], number: int = number, path: str = path) -> None:
                waiting.remove(number)
                say("ack", path, outcome.result().version)

            rig.storage.write(resolve(path, "bob"), "bob", s.FsWrite(path, data), done)
        rig.loop.turn(10_000)


class Parts:
    """A version's content, part by part."""

    def __init__(self, rig: Rig, path: str, version: s.VersionInfo) -> None:
        self._rig, self._path, self._version = rig, path, version

    def __iter__(self) -> Any:
        for offset in range(0, self._version.size_bytes, s.MAX_PART_BYTES):
            yield self._rig.read("bob", self._path, offset=offset, version=self._version.version)


def main() -> None:
    """Fork one for each line."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        os_pid = os.fork()
        if not os_pid:
            child(folder, int(line))
        say("pid", os_pid)
        _, status = os.waitpid(os_pid, 0)
        say("ended", status)


if __name__ == "__main__":
    main()
