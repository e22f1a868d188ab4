"""The memory manager: short-term notes of agents, and notes that last.

    session   in RAM, written to a file behind the agent's back, so that what RAM has no room for
              can be dropped and read again; gone with the agent
    agent     by the agent's name, acknowledged when it is on the disk
    shared    by its own name, the same

Promises that what it acknowledged is found until it is removed or its agent ends, wherever it is;
that no agent takes more than its quota; and that nothing of an agent's session outlives it. One
worker thread does all that waits for files, in the order of the calls: a read after a write sees
it. Rights are asked for by calls.py.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import NamedTuple, TypeVar

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.kernel.process.table import Process
from aios.kernel.retrieval.embedder import Embedder
from aios.syscalls.errors import AiosError
from aios.syscalls.types.memory import (
    MAX_NOTE_CHARS,
    Note,
    NoteKind,
    NoteList,
    ScopeUsage,
    SearchReply,
    SearchRequest,
)

from .backfill import Backfill
from .chores import Chores
from .file import lasting
from .quota import Limits, Usage, check_quota
from .ram import NotesInRam
from .search import Searcher
from .store import NoteStore, not_found
from .vectors import Vectors

log = logging.getLogger("aios.memory")

MOST_LOG_ENTRIES = 1000
"""Of one agent's interaction log; the oldest go."""

T = TypeVar("T")
Done = Callable[[Outcome[T]], None]


class Quotas(NamedTuple):
    """In bytes, but for ``notes``: of one scope."""

    ram: int
    ram_agent: int
    notes: int
    disk: int
    vectors: int


@dataclass(eq=False)
class _Session:
    """What a living agent's session holds."""

    process: Process
    notes: int = 0
    size_bytes: int = 0
    log: deque[str] = field(default_factory=deque)
    failing: bool = False
    """Its file could not be written the last time: notes are acknowledged when they are in it."""


class MemoryManager:
    """All calls in the kernel's thread; ``done`` gets each outcome there, some at once."""

    def __init__(
        self, loop: Loop, embedder: Embedder, lasting_file: Path, session_file: Path, quotas: Quotas
    ) -> None:
        self._limits = Limits(quotas.notes, quotas.disk)
        self._embedder = embedder
        self._worker = Worker(loop, "memory")
        self._brief = NoteStore(session_file, lasting=False)
        self._lasting = NoteStore(lasting_file, lasting=True)
        self._ram = NotesInRam(quotas.ram, quotas.ram_agent)
        self._vectors = Vectors(quotas.vectors)
        stores = (self._brief, self._lasting)
        self._backfill = Backfill(loop, self._worker, embedder, stores, self._vectors)
        self._searcher = Searcher(self._worker, embedder, stores, self._vectors, self._backfill)
        self.chores = Chores(loop, self._worker, self._lasting, embedder)
        self._sessions: dict[str, _Session] = {}
        self._last_row = 0

    def close(self) -> None:
        """Finish what was begun, and close the files."""
        self.chores.close()
        self._worker.submit(self._lasting.close, lambda outcome: None)
        self._worker.submit(self._brief.close, lambda outcome: None)
        self._worker.close()

    # ------------------------------------------------------------------ notes

    def add(self, process: Process | None, scope: str, text: str, done: Done[Note]) -> None:
        """Keep a note; ``process``: whose session it is, or who adds it (None: the operator)."""
        if not lasting(scope):
            assert process
            self._add_brief(process, scope, "note", text, done)
            return

        def kept(outcome: Outcome[Note]) -> None:
            done(outcome)  # first: the caller waits
            if outcome.value:
                self._keep(outcome.value, process)
                self._backfill.added()

        store, limits = self._lasting, self._limits
        self._worker.submit(
            lambda: store.doing(lambda: store.add(scope, "note", text, limits)), kept
        )

    def _add_brief(
        self, process: Process, scope: str, kind: NoteKind, text: str, done: Done[Note]
    ) -> None:
        session = self._sessions.setdefault(scope, _Session(process))
        size = len(text.encode())
        check_quota(scope, Usage(session.notes, session.size_bytes), self._limits, 1, size, "")
        self._last_row += 1
        row, now = self._last_row, time()
        note = Note(self._brief.name(row), scope, kind, text, now, now)
        room = not session.failing and self._ram.has_room(process.name, size)
        if room:
            self._ram.put(note, process.name, unsaved=True)
        self._book(session, 1, size)

        def written(outcome: Outcome[Note]) -> None:
            if scope not in self._sessions:
                return  # its agent has ended, and so has the call
            session.failing = outcome.error is not None
            if outcome.error:
                log.warning("%s", outcome.error)
            if outcome.error and not room:
                self._book(session, -1, -size)
            elif outcome.value:
                self._ram.saved(note.id)
                if kind == "note":
                    self._backfill.added()
            if not room:
                done(outcome)

        store = self._brief
        self._worker.submit(
            lambda: store.doing(lambda: store.add(scope, kind, text, row=row, now=now)), written
        )
        if room:
            done(Outcome(note, None))

    def get(self, id_: str, reader: Process | None, done: Done[Note]) -> None:
        """Find a note; one of the reader's own or a shared one returns to RAM."""
        note = self._ram.get(id_)
        if note:
            done(Outcome(note, None))
            return

        def found(outcome: Outcome[Note]) -> None:
            if outcome.value:
                self._keep(outcome.value, reader)
            done(outcome)

        store = self._store_of(id_)
        self._worker.submit(lambda: store.reading(lambda: store.get(id_)), found)

    def _keep(self, note: Note, user: Process | None) -> None:
        """In RAM, while somebody lives who is charged for it."""
        if note.scope.startswith("shared:"):
            self._ram.put(note, note.scope)
        elif user and user.living and note.scope in own_scopes(user):
            self._ram.put(note, user.name)

    def update(self, note: Note, user: Process | None, text: str, done: Done[Note]) -> None:
        """Another text for a note that was found."""
        store, session = self._store_of(note.id), self._sessions.get(note.scope)

        def job() -> tuple[Note, Note]:
            old = store.get(note.id)
            new = store.update(note.id, text, self._limits)
            self._vectors.remove(store, int(note.id[1:]))
            return old, new

        def updated(outcome: Outcome[tuple[Note, Note]]) -> None:
            if outcome.value is None:
                done(Outcome(None, outcome.error))
                return
            old, new = outcome.value
            if session:
                self._book(session, 0, len(new.text.encode()) - len(old.text.encode()))
            self._ram.drop(new.id)
            self._keep(new, user)
            self._backfill.added()
            done(Outcome(new, None))

        self._worker.submit(lambda: store.doing(job), updated)

    def remove(self, note: Note, done: Done[None]) -> None:
        """Delete a note that was found."""
        self.remove_id(note.id, note.scope, done)

    def remove_id(self, id_: str, scope: str, done: Done[None]) -> None:
        """Delete a note, a damaged one too."""
        store, session = self._store_of(id_), self._sessions.get(scope)

        def job() -> int:
            before = store.usage(scope).size_bytes
            store.remove(id_)
            self._vectors.remove(store, int(id_[1:]))
            return store.usage(scope).size_bytes - before

        def removed(outcome: Outcome[int]) -> None:
            if outcome.value is not None:
                self._ram.drop(id_)
                if session:
                    self._book(session, -1, outcome.value)
            done(Outcome(None, outcome.error))

        self._worker.submit(lambda: store.doing(job), removed)

    def clear(self, scope: str, done: Done[int]) -> None:
        """Delete all of a scope; how many there were."""
        store = self._lasting if lasting(scope) else self._brief
        session = self._sessions.get(scope)

        def job() -> int:
            self._vectors.forget(store, store.number(scope))
            return store.clear(scope)

        def cleared(outcome: Outcome[int]) -> None:
            if outcome.value is not None:
                self._ram.drop_scope(self._account(scope), scope)
                if session:
                    self._book(session, -session.notes, -session.size_bytes)
                    session.log.clear()
            done(outcome)

        self._worker.submit(lambda: store.doing(job), cleared)

    def page(
        self, scope: str, after: str | None, limit: int, log: bool, done: Done[NoteList]
    ) -> None:
        """A page of a scope, in the order of adding."""
        store = self._lasting if lasting(scope) else self._brief

        def job() -> tuple[list[Note], bool, Usage]:
            notes, more = store.page(scope, after, limit, log)
            return notes, more, store.usage(scope)

        def listed(outcome: Outcome[tuple[list[Note], bool, Usage]]) -> None:
            if outcome.value is None:
                done(Outcome(None, outcome.error))
                return
            notes, more, usage = outcome.value
            done(Outcome(NoteList(notes, more, self._shown(scope, usage)), None))

        self._worker.submit(lambda: store.reading(job), listed)

    def search(
        self, request: SearchRequest, scopes: Sequence[str], done: Done[SearchReply]
    ) -> None:
        """The best notes of these scopes, named in full."""
        self._searcher.search(request, scopes, done)

    def apart(self, job: Callable[[], T], done: Done[T]) -> None:
        """Something that takes long, in the thread of the files."""
        self._worker.submit(job, done)

    @property
    def embedding_model(self) -> str:
        """Whose cosines searches give; '' before it has been needed."""
        return self._embedder.model

    # ------------------------------------------------------------------ the interaction log

    def record(self, process: Process, prompt: str, reply: str) -> None:
        """What an agent said to the model, and what it got."""
        scope = session_of(process)
        session = self._sessions.setdefault(scope, _Session(process))
        if session.failing or not process.living:
            return
        entries: tuple[tuple[NoteKind, str], ...] = (("prompt", prompt), ("reply", reply))
        for kind, text in entries:
            if not text:
                continue
            try:
                self._add_brief(process, scope, kind, text[:MAX_NOTE_CHARS], lambda outcome: None)
            except AiosError:
                return  # its quota is used up by its own notes
            session.log.append(f"s{self._last_row}")
        while len(session.log) > MOST_LOG_ENTRIES:
            oldest = session.log.popleft()
            self.remove_id(oldest, scope, lambda outcome: None)

    # ------------------------------------------------------------------ lives

    def forget(self, process: Process) -> None:
        """The agent has ended: its session goes, and what it had in RAM."""
        scope = session_of(process)
        self._ram.drop_account(process.name)
        process.notes = process.note_bytes = 0
        if self._sessions.pop(scope, None) is None:
            return
        store = self._brief

        def job() -> None:
            self._vectors.forget(store, store.number(scope))
            store.doing(lambda: store.clear(scope))

        def forgotten(outcome: Outcome[None]) -> None:
            if outcome.error:
                log.error("cannot forget %s: %s", scope, outcome.error)

        self._worker.submit(job, forgotten)

    # ------------------------------------------------------------------ looking in

    def usages(self, scopes: Iterable[str] | None, done: Done[list[ScopeUsage]]) -> None:
        """What scopes hold, in order of name; None: all that hold something."""
        wanted = None if scopes is None else set(scopes)
        session_usages = {
            scope: Usage(session.notes, session.size_bytes)
            for scope, session in self._sessions.items()
            if session.notes
        }

        def counted(outcome: Outcome[dict[str, Usage]]) -> None:
            if outcome.value is None:
                done(Outcome(None, outcome.error))
                return
            rows = [
                self._shown(scope, usage)
                for scope, usage in sorted((outcome.value | session_usages).items())
                if wanted is None or scope in wanted
            ]
            done(Outcome(rows, None))

        store = self._lasting
        self._worker.submit(lambda: store.reading(store.usages), counted)

    def check(self) -> list[str]:
        """What is wrong with the accounts; empty when all is well."""
        problems = self._ram.check()
        for scope, session in self._sessions.items():
            if not session.process.living:
                problems.append(f"{scope} outlived its agent")
            if session.notes < len(session.log) or session.size_bytes < session.notes:
                problems.append(f"{scope}: {session.notes} notes of {session.size_bytes} bytes")
        return problems

    def _shown(self, scope: str, usage: Usage) -> ScopeUsage:
        return ScopeUsage(
            scope, usage.notes, usage.size_bytes, self._limits.notes, self._limits.size_bytes,
            self._ram.scope_bytes(self._account(scope), scope),
        )  # fmt: skip

    def _account(self, scope: str) -> str:
        """Who is charged for a scope's notes in RAM: its agent by name, or the shared scope."""
        kind, _, name = scope.partition(":")
        if kind == "session":
            session = self._sessions.get(scope)
            return session.process.name if session else scope
        return name if kind == "agent" else scope

    def _store_of(self, id_: str) -> NoteStore:
        if id_[0] == "s" and int(id_[1:]) > self._last_row:
            raise not_found(id_)
        return self._lasting if id_[0] == "n" else self._brief

    def _book(self, session: _Session, notes: int, size: int) -> None:
        session.notes += notes
        session.size_bytes += size
        session.process.notes, session.process.note_bytes = session.notes, session.size_bytes


def session_of(process: Process) -> str:
    """The full name of an agent's session scope."""
    return f"session:{process.pid}"


def own_scopes(process: Process) -> tuple[str, str]:
    """The full names of the scopes that are an agent's alone."""
    return session_of(process), f"agent:{process.name}"
