"""Memory: notes that an agent keeps, finds and shares.

    aios.memory.add("The user prefers short answers.")                 # until this agent ends
    aios.memory.add("Their dog is called Ada.", persist=True)          # for later runs, too
    aios.memory.add("Release on Friday.", scope="shared:team")         # for all who are granted it
    for hit in aios.memory.search("what pets are there?").hits:
        print(hit.score, hit.note.text)
    aios.chat("What is my dog called?", recall=5)                      # notes put in front

Scopes: ``session`` (this agent's life), ``agent`` (by the agent's name) and ``shared:NAME``. What
is said to the model and what it replies is kept, too: ``log=True`` lists and finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from aios.syscalls.types.common import Empty
from aios.syscalls.types.memory import (
    AddRequest,
    Cleared,
    ListRequest,
    Note,
    NoteList,
    NoteRef,
    ScopeList,
    ScopeRef,
    ScopeUsage,
    SearchReply,
    SearchRequest,
    UpdateRequest,
)

from . import session


def add(text: str, *, scope: str = "session", persist: bool = False) -> Note:
    """Keep a text of at most 65,536 characters; ``persist`` is ``scope="agent"``.

    Notes that last are on the disk when this returns. Raises ResourceExhausted when a quota is
    used up, PermissionDenied, InvalidArgument.
    """
    note: Note = session.call("memory.add", AddRequest(text, scope, persist))
    return note


def get(id: str) -> Note:
    """A note by its id. Raises NotFound."""
    note: Note = session.call("memory.get", NoteRef(id))
    return note


def update(id: str, text: str | None = None, *, persist: bool = False) -> Note:
    """Replace a note's text. With ``persist``, a session's note moves to the agent's scope; the
    note that is returned has its new id. Raises NotFound, ResourceExhausted."""
    note: Note = session.call("memory.update", UpdateRequest(id, text, persist))
    return note


def remove(id: str) -> None:
    """Forget a note. Raises NotFound."""
    session.call("memory.remove", NoteRef(id))


def search(
    query: str,
    k: int = 5,
    *,
    scopes: Sequence[str] = ("session", "agent"),
    mode: Literal["auto", "keyword", "semantic", "mixed"] = "auto",
    log: bool = False,
    fresh: bool = False,
    timeout: float | None = None,
) -> SearchReply:
    """The ``k`` best notes: ``.hits`` (``.note``, ``.score``), best first, and in ``.mode`` how
    they were searched: ``keyword``, ``semantic`` or ``mixed``; ``.why`` when that is not what was
    asked for. ``log``: the interaction log, too. ``fresh``: wait until all notes can be found by
    their meaning; ``.pending`` says how many cannot yet."""
    body = SearchRequest(query, k, tuple(scopes), mode, log, fresh)
    reply: SearchReply = session.call("memory.search", body, timeout)
    return reply


def list(
    scope: str = "session", *, after: str | None = None, limit: int = 100, log: bool = False
) -> NoteList:
    """A scope's notes in the order of adding: ``.notes``, whether there are ``.more`` after these,
    and ``.usage`` of the scope's quotas. ``log``: the interaction log instead."""
    reply: NoteList = session.call("memory.list", ListRequest(scope, after, limit, log))
    return reply


def clear(scope: str = "session") -> int:
    """Forget all of a scope; returns how many notes that were."""
    reply: Cleared = session.call("memory.clear", ScopeRef(scope))
    return reply.removed


def scopes() -> Sequence[ScopeUsage]:
    """What this agent's own scopes hold, and may hold."""
    reply: ScopeList = session.call("memory.scopes", Empty())
    return reply.scopes
