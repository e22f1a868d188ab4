"""The memory manager: short-term notes of agents, and notes that last.

    session   in RAM, and written to a file in the background, so that RAM can evict it; gone with
              the agent
    agent     by the agent's name; acknowledged when it is on the disk
    shared    by a name of its own; the same

Promises that an acknowledged note is found until it is removed or its agent ends, wherever it is;
that no agent exceeds its quota; and that nothing of a session outlives its agent. One worker thread
does all that waits for files, in the order of the calls, so a read sees the write before it. Rights
are checked by calls.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, Promise, start
from aios.kernel.loop.worker import Worker
from aios.kernel.process.table import Process
from aios.kernel.retrieval.embedder import Embedder
from aios.kernel.retrieval.vectors import VectorCache
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

from .backfill import Backfill, Group
from .chores import Chores
from .file import lasting
from .quota import Limits, Usage, check_quota
from .ram_cache import NotesInRam
from .scopes import own_scopes, session_of
from .search import Searcher
from .sessions import Session, Sessions
from .store import NoteStore, not_found

log = logging.getLogger("aios.memory")

MAX_LOG_ENTRIES = 1000
"""Limit on entries in one agent's interaction log; the oldest are removed."""

T = TypeVar("T")


class Quotas(NamedTuple):
    """Limits in bytes, except ``notes``. ``notes`` and ``disk`` are per scope."""

    ram: int
    ram_agent: int
    notes: int
    disk: int
    vectors: int


class MemoryManager:
    """All calls in the kernel's thread. Promises are rejected with AiosError."""

    def __init__(
        self, loop: Loop, embedder: Embedder, lasting_file: Path, session_file: Path, quotas: Quotas
    ) -> None:
        self._limits = Limits(quotas.notes, quotas.disk)
        self._clock, self._embedder = loop.clock, embedder
        self._worker = Worker(loop, "memory")
        self._brief = NoteStore(session_file, lasting=False, clock=loop.clock)
        self._lasting = NoteStore(lasting_file, lasting=True, clock=loop.clock)
        self._ram = NotesInRam(quotas.ram, quotas.ram_agent)
        stores = (self._brief, self._lasting)  # at False and True, as groups have it
        self._vectors: VectorCache[Group] = VectorCache(
            quotas.vectors,
            lambda group: stores[group[0]].vector_count(group[1]),
            lambda group: stores[group[0]].vectors(group[1]),
        )
        self._backfill = Backfill(loop, self._worker, embedder, stores, self._vectors)
        self._searcher = Searcher(self._worker, embedder, stores, self._vectors, self._backfill)
        self.chores = Chores(loop, self._worker, self._lasting, embedder)
        self._sessions = Sessions()
        self._last_row = 0

    def close(self) -> None:
        """Finish what was begun, and close the files."""
        self.chores.close()
        self._worker.run(self._lasting.close)
        self._worker.run(self._brief.close)
        self._worker.close()

    # ------------------------------------------------------------------ notes

    def add(self, process: Process | None, scope: str, text: str) -> Promise[Note]:
        """Add a note. ``process``: the agent of the session, or the one that adds it; None: the
        operator. Raises ResourceExhausted."""
        if not lasting(scope):
            assert process
            return self._add_brief(process, scope, "note", text)
        promise: Promise[Note] = Promise()
        store, limits = self._lasting, self._limits
        self._worker.submit(
            lambda: store.doing(lambda: store.add(scope, "note", text, limits)),
            partial(self._added, process, promise),
        )
        return promise

    def _added(
        self, process: Process | None, promise: Promise[Note], outcome: Outcome[Note]
    ) -> None:
        promise.settle(outcome)  # first: the caller waits
        if outcome.value:
            self._keep(outcome.value, process)
            self._backfill.added()

    def _add_brief(self, process: Process, scope: str, kind: NoteKind, text: str) -> Promise[Note]:
        """Add a session's note: acknowledged from RAM if it has room, else from the file."""
        session = self._sessions.setdefault(scope, Session(process))
        size = len(text.encode())
        check_quota(scope, Usage(session.notes, session.size_bytes), self._limits, 1, size, "")
        self._last_row += 1
        row, now, store = self._last_row, self._clock.unix(), self._brief
        note = Note(store.name(row), scope, kind, text, now, now)
        promise: Promise[Note] = Promise()
        room = not session.failing and self._ram.has_room(process.name, size)
        if room:
            self._ram.put(note, process.name, unsaved=True)
            promise.resolve(note)
        session.book(1, size)
        self._worker.submit(
            lambda: store.doing(lambda: store.add(scope, kind, text, row=row, now=now)),
            partial(self._written, note, session, promise),
        )
        return promise

    def _written(
        self, note: Note, session: Session, promise: Promise[Note], outcome: Outcome[Note]
    ) -> None:
        """A session's note has been written to its file, or could not be."""
        if note.scope not in self._sessions:
            return  # its agent has ended, and so has the call
        session.failing = outcome.error is not None
        if outcome.error:
            log.warning("%s", outcome.error)
            if not promise.settled:
                session.book(-1, -len(note.text.encode()))
        else:
            self._ram.saved(note.id)
            if note.kind == "note":
                self._backfill.added()
        if not promise.settled:
            promise.settle(outcome)

    async def get(self, id_: str, reader: Process | None) -> Note:
        """Find a note. One of the reader's own, or a shared one, returns to RAM."""
        note = self._ram.get(id_)
        if note is None:
            store = self._store_of(id_)
            note = await self._worker.run(lambda: store.reading(lambda: store.get(id_)))
            self._keep(note, reader)
        return note

    def _keep(self, note: Note, user: Process | None) -> None:
        """Keep a note in RAM while an agent lives that is charged for it."""
        if note.scope.startswith("shared:"):
            self._ram.put(note, note.scope)
        elif user and user.living and note.scope in own_scopes(user):
            self._ram.put(note, user.name)

    async def update(self, note: Note, user: Process | None, text: str) -> Note:
        """Change the text of a note."""
        store, session = self._store_of(note.id), self._sessions.get(note.scope)

        def change() -> tuple[Note, Note]:
            self._forget_vector(store, note.id)
            return store.get(note.id), store.update(note.id, text, self._limits)

        old, new = await self._worker.run(lambda: store.doing(change))
        if session:
            session.book(0, len(new.text.encode()) - len(old.text.encode()))
        self._ram.drop(new.id)
        self._keep(new, user)
        self._backfill.added()
        return new

    async def remove(self, id_: str, scope: str) -> None:
        """Delete a note, also a damaged one. ``scope``: its scope, '' if unknown."""
        store, session = self._store_of(id_), self._sessions.get(scope)

        def remove() -> int:
            before = store.usage(scope).size_bytes
            self._forget_vector(store, id_)
            store.remove(id_)
            return store.usage(scope).size_bytes - before

        size = await self._worker.run(lambda: store.doing(remove))
        self._ram.drop(id_)
        if session:
            session.book(-1, size)

    def _forget_vector(self, store: NoteStore, id_: str) -> None:
        """Drop a note's vector from RAM. In the worker's thread, within a transaction."""
        row = int(id_[1:])
        if found := store.scope_of(row):
            self._vectors.remove((store.lasting, found[0]), [row])

    async def clear(self, scope: str) -> int:
        """Delete all notes of a scope; return their number."""
        store = self._lasting if lasting(scope) else self._brief
        removed = await self._worker.run(lambda: self._clear(store, scope))
        self._ram.drop_scope(self._account(scope), scope)
        if session := self._sessions.get(scope):
            session.book(-session.notes, -session.size_bytes)
            session.log.clear()
        return removed

    def _clear(self, store: NoteStore, scope: str) -> int:
        """Delete a scope and its vectors. In the worker's thread."""

        def job() -> int:
            number = store.number(scope)
            if number is not None:
                self._vectors.forget((store.lasting, number))
            return store.clear(scope)

        return store.doing(job)

    async def page(self, scope: str, after: str | None, limit: int, log: bool) -> NoteList:
        """Return a page of a scope's notes, in the order of adding."""
        store = self._lasting if lasting(scope) else self._brief
        (notes, more), usage = await self._worker.run(
            lambda: store.reading(
                lambda: (store.page(scope, after, limit, log), store.usage(scope))
            )
        )
        return NoteList(notes, more, self._shown(scope, usage))

    async def search(self, request: SearchRequest, scopes: Sequence[str]) -> SearchReply:
        """Return the best notes of these scopes, named in full."""
        return await self._searcher.search(request, scopes)

    def apart(self, job: Callable[[], T]) -> Promise[T]:
        """Do something that takes long, in the thread of the files."""
        return self._worker.run(job)

    @property
    def embedding_model(self) -> str:
        """The model whose cosines searches give; '' before it has been needed."""
        return self._embedder.model

    # ------------------------------------------------------------------ the interaction log

    def record(self, process: Process, prompt: str, reply: str) -> None:
        """Log what an agent sent to the model, and the reply."""
        scope = session_of(process)
        session = self._sessions.setdefault(scope, Session(process))
        if session.failing or not process.living:
            return
        entries: tuple[tuple[NoteKind, str], ...] = (("prompt", prompt), ("reply", reply))
        for kind, text in entries:
            if not text:
                continue
            try:
                self._add_brief(process, scope, kind, text[:MAX_NOTE_CHARS])
            except AiosError:
                return  # its own notes use up its quota
            session.log.append(f"s{self._last_row}")
        while len(session.log) > MAX_LOG_ENTRIES:
            start(self.remove(session.log.popleft(), scope))

    # ------------------------------------------------------------------ lives

    def forget(self, process: Process) -> None:
        """Remove the session of an agent that has ended, and what it had in RAM."""
        scope = session_of(process)
        self._ram.drop_account(process.name)
        process.notes = process.note_bytes = 0
        if self._sessions.pop(scope, None):
            self._worker.submit(lambda: self._clear(self._brief, scope), partial(_forgotten, scope))

    # ------------------------------------------------------------------ looking in

    async def usages(self, scopes: Iterable[str] | None) -> list[ScopeUsage]:
        """Return what scopes hold, in order of name. ``scopes`` None: all that hold something."""
        wanted, store = None if scopes is None else set(scopes), self._lasting
        brief = self._sessions.usages()
        held = await self._worker.run(lambda: store.reading(store.usages)) | brief
        return [
            self._shown(scope, usage)
            for scope, usage in sorted(held.items())
            if wanted is None or scope in wanted
        ]

    def check(self) -> list[str]:
        """Return what is wrong with the accounts; empty when all is well."""
        return self._ram.check() + self._sessions.check()

    def _shown(self, scope: str, usage: Usage) -> ScopeUsage:
        return ScopeUsage(
            scope, usage.notes, usage.size_bytes, self._limits.notes, self._limits.size_bytes,
            self._ram.scope_bytes(self._account(scope), scope),
        )  # fmt: skip

    def _account(self, scope: str) -> str:
        """Return who is charged for a scope's notes in RAM: an agent by name, or the shared
        scope."""
        kind, _, name = scope.partition(":")
        if kind == "session":
            session = self._sessions.get(scope)
            return session.process.name if session else scope
        return name if kind == "agent" else scope

    def _store_of(self, id_: str) -> NoteStore:
        if id_[0] == "s" and int(id_[1:]) > self._last_row:
            raise not_found(id_)
        return self._lasting if id_[0] == "n" else self._brief


def _forgotten(scope: str, outcome: Outcome[int]) -> None:
    if outcome.error:
        log.error("cannot forget %s: %s", scope, outcome.error)
