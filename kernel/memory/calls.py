"""The system calls on notes, ``memory.*``: resolve scopes, check rights, then ask the manager."""

from __future__ import annotations

import contextlib
from pathlib import Path

from aios.kernel.access.principals import OPERATOR
from aios.kernel.process.table import ProcessTable
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import AiosError, IllegalState, InvalidArgument
from aios.syscalls.types import memory as m
from aios.syscalls.types.common import Effect, Empty

from .manager import MemoryManager
from .scopes import Scopes
from .store import not_found


class MemoryCalls:
    """Calls on notes, by scope or by id."""

    def __init__(self, table: ProcessTable, scopes: Scopes, memory: MemoryManager) -> None:
        self._table, self._scopes, self._memory = table, scopes, memory
        self.handlers: dict[str, Handler] = {
            "memory.add": self._add,
            "memory.get": self._get,
            "memory.update": self._update,
            "memory.remove": self._remove,
            "memory.search": self._search,
            "memory.list": self._list,
            "memory.clear": self._clear,
            "memory.scopes": self._list_scopes,
            "memory.check": self._check,
            "memory.backup": self._backup,
        }

    async def _add(self, call: Pending, body: m.AddRequest) -> m.Note:
        name = "agent" if body.persist and body.scope == "session" else body.scope
        scope = self._scopes.allowed(call.asker, name, "write", "reversible")
        owner = self._scopes.session_owner(scope) or self._table.get(call.caller.pid)
        return await self._memory.add(owner, scope, body.text)

    async def _get(self, call: Pending, body: m.NoteRef) -> m.Note:
        return await self._found(call, body.id, "read", "read")

    async def _update(self, call: Pending, body: m.UpdateRequest) -> m.Note:
        if body.text is None and not body.persist:
            raise InvalidArgument("update changes nothing", "give a text, or persist=True")
        note = await self._found(call, body.id, "write", "irreversible")
        if body.persist and note.id.startswith("s"):
            return await self._promote(call, note, body.text or note.text)
        if body.text is None:
            return note
        return await self._memory.update(note, self._table.get(call.caller.pid), body.text)

    async def _promote(self, call: Pending, note: m.Note, text: str) -> m.Note:
        """Move a session's note to the lasting store: add it there, then remove it here."""
        process = self._scopes.session_owner(note.scope)
        assert process
        agent = "agent" if call.caller.pid != OPERATOR else f"agent:{process.name}"
        scope = self._scopes.allowed(call.asker, agent, "write", "reversible")
        kept = await self._memory.add(process, scope, text)
        with contextlib.suppress(AiosError):  # the lasting note is there, whatever this does
            await self._memory.remove(note.id, note.scope)
        return kept

    async def _remove(self, call: Pending, body: m.NoteRef) -> Empty:
        try:
            scope = (await self._found(call, body.id, "delete", "irreversible")).scope
        except IllegalState:
            if call.caller.pid != OPERATOR or call.ended:
                raise
            scope = ""  # it is damaged; the operator can still remove it
        await self._memory.remove(body.id, scope)
        return Empty()

    async def _search(self, call: Pending, body: m.SearchRequest) -> m.SearchReply:
        scopes = [self._scopes.allowed(call.asker, name, "read", "read") for name in body.scopes]
        return await self._memory.search(body, list(dict.fromkeys(scopes)))

    async def _list(self, call: Pending, body: m.ListRequest) -> m.NoteList:
        scope = self._scopes.allowed(call.asker, body.scope, "read", "read")
        if body.after and body.after.startswith("s") != scope.startswith("session:"):
            raise InvalidArgument(
                f"note {body.after} is not of {scope}", "give the id of a note of that scope"
            )
        return await self._memory.page(scope, body.after, body.limit, body.log)

    async def _clear(self, call: Pending, body: m.ScopeRef) -> m.Cleared:
        scope = self._scopes.allowed(call.asker, body.scope, "delete", "irreversible")
        return m.Cleared(await self._memory.clear(scope))

    async def _list_scopes(self, call: Pending, _: Empty) -> m.ScopeList:
        pid = call.caller.pid
        own = None if pid == OPERATOR else self._scopes.own(pid)
        return m.ScopeList(await self._memory.usages(own))

    async def _check(self, _: Pending, __: Empty) -> m.MemoryReport:
        return await self._memory.chores.verify()

    async def _backup(self, _: Pending, body: m.BackupRequest) -> m.MemoryReport:
        return await self._memory.chores.backup(Path(body.path))

    async def _found(self, call: Pending, id_: str, action: str, effect: Effect) -> m.Note:
        """Look a note up, and check that the caller may do this to it. Raises AiosError, also when
        the call has ended meanwhile: nothing may be changed for it then."""
        pid = call.caller.pid
        note = await self._memory.get(id_, self._table.get(pid))
        if call.ended:
            raise IllegalState("the call has ended")
        if not self._scopes.visible(pid, note.scope):
            raise not_found(id_)
        self._scopes.allowed(call.asker, note.scope, action, effect)
        return note
