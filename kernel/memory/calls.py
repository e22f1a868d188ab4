"""Calls on notes: ``memory.*``. Names scopes in full and asks for rights, then the manager acts.

An agent's own scopes are ``session`` and ``agent``; another's are none of its business, whatever
it is granted: what agents share is in ``shared:NAME``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from aios.kernel.access.manager import AccessManager
from aios.kernel.access.principals import OPERATOR
from aios.kernel.loop.task import Outcome
from aios.kernel.process.table import Process, ProcessTable
from aios.kernel.trap.asker import Asker
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import (
    AiosError,
    IllegalState,
    InternalError,
    InvalidArgument,
    PermissionDenied,
)
from aios.syscalls.types import memory as m
from aios.syscalls.types.common import Effect, Empty

from .manager import MemoryManager, own_scopes, session_of
from .store import not_found

log = logging.getLogger("aios.memory")

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


class MemoryCalls:
    """Notes, by scope or by id."""

    def __init__(self, table: ProcessTable, access: AccessManager, memory: MemoryManager) -> None:
        self._table, self._access, self._memory = table, access, memory
        self.handlers: dict[str, Handler] = {
            "memory.add": self._add,
            "memory.get": self._get,
            "memory.update": self._update,
            "memory.remove": self._remove,
            "memory.search": self._search,
            "memory.list": self._list,
            "memory.clear": self._clear,
            "memory.scopes": self._scopes,
            "memory.check": self._check,
            "memory.backup": self._backup,
        }

    # ------------------------------------------------------------------ scopes and rights

    def scope(self, asker: Asker, name: str, action: str, effect: Effect) -> str:
        """A scope's full name, when the caller may do this to it. Raises AiosError."""
        full, asked = self._full(asker.pid, name)
        self._access.check(asker, "memory", action, asked, effect)
        return full

    def _full(self, caller_pid: int, name: str) -> tuple[str, str]:
        """In full, and as rights name it."""
        kind, _, given = name.partition(":")
        if caller_pid == OPERATOR:
            if not given:
                raise InvalidArgument(
                    f"the operator has no {kind} of its own",
                    "name one in full: session:PID, agent:NAME or shared:NAME",
                )
            return name, name
        if kind == "shared":
            return name, name
        process = self._table.caller(caller_pid)
        own = session_of(process) if kind == "session" else f"agent:{process.name}"
        if given and name != own:
            raise PermissionDenied(
                f"{name} is another agent's; pid {caller_pid} is {process.name}",
                "what agents share is in a scope of its own: shared:NAME",
            )
        return own, kind

    def _own_session(self, scope: str) -> Process | None:
        """The agent of a session scope. Raises NotFound when it has none."""
        if not scope.startswith("session:"):
            return None
        process = self._table.get(int(scope.partition(":")[2]))
        if process is None:
            raise InvalidArgument(f"{scope} has ended, and its notes with it", "see: aios ps")
        return process

    def _found(
        self,
        call: Pending,
        id_: str,
        action: str,
        effect: Effect,
        then: Callable[[m.Note], None],
        otherwise: Callable[[AiosError], bool] = lambda error: False,
    ) -> None:
        """Look a note up and go on with it, if the caller may do this to it."""
        pid = call.caller.pid

        def found(outcome: Outcome[m.Note]) -> None:
            if outcome.value is None:
                error = outcome.error
                if not isinstance(error, AiosError) or not otherwise(error):
                    _failed(call, outcome)
                return
            try:
                if not self._is_ours(pid, outcome.value.scope):
                    raise not_found(id_)
                self.scope(call.asker, outcome.value.scope, action, effect)
                if not call.ended:
                    then(outcome.value)
            except AiosError as refusal:
                call.fail(refusal)

        call.defer(lambda error: None)
        self._memory.get(id_, self._table.get(pid), found)

    def _is_ours(self, caller_pid: int, scope: str) -> bool:
        """Whether a caller may know of it at all: others' scopes are not even denied."""
        if caller_pid == OPERATOR or scope.startswith("shared:"):
            return True
        process = self._table.get(caller_pid)
        return process is not None and scope in own_scopes(process)

    # ------------------------------------------------------------------ calls

    def _add(self, call: Pending, body: m.AddRequest) -> None:
        name = "agent" if body.persist and body.scope == "session" else body.scope
        scope = self.scope(call.asker, name, "write", "reversible")
        owner = self._own_session(scope) or self._table.get(call.caller.pid)
        call.defer(lambda error: None)
        self._memory.add(owner, scope, body.text, lambda outcome: _tell(call, outcome))

    def _get(self, call: Pending, body: m.NoteRef) -> None:
        self._found(call, body.id, "read", "read", call.reply)

    def _update(self, call: Pending, body: m.UpdateRequest) -> None:
        if body.text is None and not body.persist:
            raise InvalidArgument("update changes nothing", "give a text, or persist=True")

        def change(note: m.Note) -> None:
            if body.persist and note.id.startswith("s"):
                self._promote(call, note, body.text or note.text)
            elif body.text is None:
                call.reply(note)
            else:
                user = self._table.get(call.caller.pid)
                self._memory.update(note, user, body.text, lambda got: _tell(call, got))

        self._found(call, body.id, "write", "irreversible", change)

    def _promote(self, call: Pending, note: m.Note, text: str) -> None:
        """Move a session's note to where it lasts: written there before it goes here."""
        process = self._own_session(note.scope)
        assert process
        agent = "agent" if call.caller.pid != OPERATOR else f"agent:{process.name}"
        scope = self.scope(call.asker, agent, "write", "reversible")

        def kept(outcome: Outcome[m.Note]) -> None:
            if outcome.value is None:
                _tell(call, outcome)
                return
            self._memory.remove(note, lambda _: _tell(call, outcome))

        self._memory.add(process, scope, text, kept)

    def _remove(self, call: Pending, body: m.NoteRef) -> None:
        def remove(note: m.Note) -> None:
            self._memory.remove(note, lambda outcome: _done(call, outcome))

        def damaged(error: AiosError) -> bool:
            """The operator can remove what cannot be read."""
            if call.caller.pid != OPERATOR or not isinstance(error, IllegalState):
                return False
            self._memory.remove_id(body.id, "", lambda outcome: _done(call, outcome))
            return True

        self._found(call, body.id, "delete", "irreversible", remove, damaged)

    def _search(self, call: Pending, body: m.SearchRequest) -> None:
        scopes = [self.scope(call.asker, name, "read", "read") for name in body.scopes]
        call.defer(lambda error: None)
        self._memory.search(body, list(dict.fromkeys(scopes)), lambda outcome: _tell(call, outcome))

    def _list(self, call: Pending, body: m.ListRequest) -> None:
        scope = self.scope(call.asker, body.scope, "read", "read")
        if body.after and body.after.startswith("s") != scope.startswith("session:"):
            raise InvalidArgument(f"note {body.after} is not of {scope}", "give one of that scope")
        call.defer(lambda error: None)
        self._memory.page(
            scope, body.after, body.limit, body.log, lambda outcome: _tell(call, outcome)
        )

    def _clear(self, call: Pending, body: m.ScopeRef) -> None:
        scope = self.scope(call.asker, body.scope, "delete", "irreversible")

        def cleared(outcome: Outcome[int]) -> None:
            if outcome.value is None:
                _failed(call, outcome)
            else:
                call.reply(m.Cleared(outcome.value))

        call.defer(lambda error: None)
        self._memory.clear(scope, cleared)

    def _scopes(self, call: Pending, _: Empty) -> None:
        pid = call.caller.pid
        process = self._table.get(pid)
        own = own_scopes(process) if process else None

        def counted(outcome: Outcome[list[m.ScopeUsage]]) -> None:
            if outcome.value is None:
                _failed(call, outcome)
            else:
                call.reply(m.ScopeList(outcome.value))

        call.defer(lambda error: None)
        self._memory.usages(None if pid == OPERATOR else own, counted)

    def _check(self, call: Pending, _: Empty) -> None:
        call.defer(lambda error: None)
        self._memory.chores.verify(lambda outcome: _tell(call, outcome))

    def _backup(self, call: Pending, body: m.BackupRequest) -> None:
        call.defer(lambda error: None)
        self._memory.chores.backup(Path(body.path), lambda outcome: _tell(call, outcome))


def _tell(call: Pending, outcome: Outcome[S]) -> None:
    """End a call with an outcome."""
    if outcome.value is None:
        _failed(call, outcome)
    else:
        call.reply(outcome.value)


def _done(call: Pending, outcome: Outcome[None]) -> None:
    if outcome.error is not None:
        _failed(call, outcome)
    else:
        call.reply(Empty())


def _failed(call: Pending, outcome: Outcome[T]) -> None:
    """What a job raised: a typed error is told as it is; anything else is a bug and is raised."""
    error = outcome.error
    if isinstance(error, AiosError):
        call.fail(error)
        return
    log.error("memory failed on %s", call.call.name, exc_info=error)
    call.fail(InternalError("the kernel failed on this call", "its log says why; please report it"))
