"""A memory manager without a kernel, and calls that wait for their outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from aios.kernel.access.principals import OPERATOR
from aios.kernel.loop.task import Outcome, Promise, Task, start
from aios.kernel.memory.manager import MemoryManager, Quotas
from aios.kernel.memory.scopes import session_of
from aios.kernel.process.table import Process, ProcessTable
from aios.syscalls.types.memory import Note, SearchReply, SearchRequest
from tests.kernel.retrieval.rig import Rig

T = TypeVar("T")


class Memory:
    """A manager on a fake embedder, its agents, and calls that wait."""

    def __init__(self, folder: Path, **quotas: int) -> None:
        self.rig, self.folder = Rig(), folder
        given = {"ram": 1 << 20, "ram_agent": 1 << 18, "notes": 1000, "disk": 1 << 20,
                 "vectors": 1 << 20, **quotas}  # fmt: skip
        self.table = ProcessTable(100)
        self.manager = MemoryManager(
            self.rig.loop, self.rig.embedder, folder / "notes.db", folder / "own" / "session.db",
            Quotas(**given),
        )  # fmt: skip

    def agent(self, name: str = "a") -> Process:
        """A living agent."""
        process = self.table.create(
            parent=OPERATOR, stem=name, command=name, spec=None, guest=True
        )  # fmt: skip
        self.table.born(process, process.pid)
        return process

    def end(self, process: Process) -> None:
        """Bury it."""
        self.table.buried(process, 0, "")
        self.manager.forget(process)

    def wait(self, task: Task[T] | Promise[T]) -> T:
        """Wait for a result."""
        got: list[Outcome[T]] = []
        (task if isinstance(task, Promise) else start(task)).then(got.append)
        self.rig.until(lambda: got)
        return got[0].result()

    def add(self, process: Process, text: str, scope: str | None = None) -> Note:
        """A note of the session, or of a scope."""
        named = scope or session_of(process)
        return self.wait(self.manager.add(process, named, text))

    def get(self, id_: str, process: Process) -> Note:
        """A note by id."""
        return self.wait(self.manager.get(id_, process))

    def update(self, note: Note, process: Process, text: str) -> Note:
        """Change the text of a note."""
        return self.wait(self.manager.update(note, process, text))

    def remove(self, note: Note) -> None:
        """Remove a note."""
        self.wait(self.manager.remove(note.id, note.scope))

    def clear(self, scope: str) -> int:
        """Remove all notes of a scope; their number."""
        return self.wait(self.manager.clear(scope))

    def search(self, query: str, *scopes: str, **options: Any) -> SearchReply:
        """The best notes."""
        request = SearchRequest(query, **options)
        return self.wait(self.manager.search(request, scopes))

    def texts(self, scope: str, log: bool = False) -> list[str]:
        """All texts of a scope."""
        page = self.wait(self.manager.page(scope, None, 1000, log))
        return [note.text for note in page.notes]

    def close(self) -> None:
        """End it."""
        self.rig.embedder.close()
        self.manager.close()
        self.rig.loop.close()
