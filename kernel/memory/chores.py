"""Chores of the operator with all lasting notes: check and back up.

Both run in the memory manager's thread, which alone may open the file. A folder that does not
answer is waited for in a thread of its own.
"""

from __future__ import annotations

from pathlib import Path

from aios.kernel.loop.lanes import CLOSE_S, Lanes
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Promise
from aios.kernel.loop.worker import Worker
from aios.kernel.retrieval.embedder import Embedder
from aios.syscalls.types.memory import MemoryReport

from .file import new_file
from .store import NoteStore


class Chores:
    """All calls in the kernel's thread."""

    def __init__(self, loop: Loop, worker: Worker, store: NoteStore, embedder: Embedder) -> None:
        self._loop, self._worker, self._store, self._embedder = loop, worker, store, embedder
        self._lanes = Lanes(loop, "lane")

    def verify(self) -> Promise[MemoryReport]:
        """Read all lasting notes and report damage."""
        store, embedder = self._store, self._embedder.described

        def job() -> MemoryReport:
            notes, damaged, problems = store.reading(store.verify)
            return MemoryReport(str(store.path), notes, damaged, problems, embedder)

        return self._worker.run(job)

    async def backup(self, path: Path) -> MemoryReport:
        """Copy all lasting notes to a new file. A failed backup leaves no file."""
        store, embedder = self._store, self._embedder.described
        await self._lanes.run(str(path.parent), lambda: new_file(path))

        def copy() -> MemoryReport:
            try:
                store.reading(lambda: store.backup(path))
                notes = sum(usage.notes for usage in store.reading(store.usages).values())
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return MemoryReport(str(path), notes, [], [], embedder)

        return await self._worker.run(copy)

    def warnings(self) -> list[str]:
        """Return what the operator should know."""
        return [f"{line}: the backup of notes waits for it" for line in self._lanes.late()]

    def close(self) -> None:
        """Wait for folders, for a limited time. Close the worker afterwards."""
        self._lanes.close(self._loop.now() + CLOSE_S)
