"""What the operator has done to all notes that last: looked at for damage, and copied.

Both are done in the thread of the memory manager, which alone may open the file; a folder that does
not answer is waited for in a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from aios.kernel.loop.lanes import CLOSE_S, Lanes
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.kernel.retrieval.embedder import Embedder
from aios.syscalls.types.memory import MemoryReport

from .file import new_file
from .store import NoteStore

Done = Callable[[Outcome[MemoryReport]], None]


class Chores:
    """All calls in the kernel's thread; ``done`` gets each outcome there."""

    def __init__(self, loop: Loop, worker: Worker, store: NoteStore, embedder: Embedder) -> None:
        self._worker, self._store, self._embedder = worker, store, embedder
        self._lanes = Lanes(loop, "lane")

    def verify(self, done: Done) -> None:
        """Read all that lasts and say what is damaged."""
        store, embedder = self._store, self._embedder.described

        def job() -> MemoryReport:
            notes, damaged, problems = store.reading(store.verify)
            return MemoryReport(str(store.path), notes, damaged, problems, embedder)

        self._worker.submit(job, done)

    def backup(self, path: Path, done: Done) -> None:
        """Copy all that lasts to a new file; nothing is left of one that fails."""
        store, embedder = self._store, self._embedder.described

        def copy() -> MemoryReport:
            try:
                store.reading(lambda: store.backup(path))
                notes = sum(usage.notes for usage in store.reading(store.usages).values())
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return MemoryReport(str(path), notes, [], [], embedder)

        def made(outcome: Outcome[None]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
            else:
                self._worker.submit(copy, done)

        self._lanes.submit(str(path.parent), lambda: new_file(path), made)

    def warnings(self) -> list[str]:
        """What the operator should know."""
        return [f"{line}: the backup of notes waits for it" for line in self._lanes.late()]

    def close(self) -> None:
        """Wait for folders, for so long as they are worth it. The worker is closed afterwards."""
        self._lanes.close(time.monotonic() + CLOSE_S)
