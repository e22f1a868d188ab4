"""Memory: notes that an agent keeps, finds and shares.

    aios.memory.add("The user prefers short answers.")                 # until this agent ends
    aios.memory.add("Their dog is called Ada.", persist=True)          # for later runs, too
    aios.memory.add("Release on Friday.", scope="shared:team")         # for all with a grant
    for hit in aios.memory.search("what pets are there?").hits:
        print(hit.score, hit.note.text)
    aios.chat("What is my dog called?", recall=5)                      # notes put in the prompt

Scopes: ``session`` (this agent's life), ``agent`` (by the agent's name) and ``shared:NAME``.
Prompts and replies are kept in the interaction log, which ``log=True`` lists and searches.
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
    """Add a note of at most 65,536 characters; ``persist`` is the same as ``scope="agent"``.

    Lasting notes are on disk when this returns. Raises ResourceExhausted if a quota is exceeded,
    PermissionDenied, InvalidArgument.
    """
    return session.call("memory.add", AddRequest(text, scope, persist), Note)


def get(id: str) -> Note:
    """Return a note by its id. Raises NotFound."""
    return session.call("memory.get", NoteRef(id), Note)


def update(id: str, text: str | None = None, *, persist: bool = False) -> Note:
    """Replace a note's text. ``persist`` moves a session's note to the agent's scope; the returned
    note has its new id. Raises NotFound, ResourceExhausted."""
    return session.call("memory.update", UpdateRequest(id, text, persist), Note)


def remove(id: str) -> None:
    """Delete a note. Raises NotFound."""
    session.call("memory.remove", NoteRef(id), Empty)


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
    """Find the ``k`` best notes for a query.

    Returns ``.hits`` (``.note``, ``.score``), best first; ``.mode``: ``keyword``, ``semantic`` or
    ``mixed``; ``.why``: the reason if that is not the requested mode; ``.pending``: notes that
    cannot be found by meaning yet. ``log`` includes the interaction log. ``fresh`` waits until all
    notes can be found by meaning.
    """
    body = SearchRequest(query, k, tuple(scopes), mode, log, fresh)
    return session.call("memory.search", body, SearchReply, timeout)


def list(
    scope: str = "session", *, after: str | None = None, limit: int = 100, log: bool = False
) -> NoteList:
    """Return a page of a scope's notes in the order of adding: ``.notes``, ``.more`` (others
    follow) and ``.usage``. ``log``: the interaction log instead."""
    return session.call("memory.list", ListRequest(scope, after, limit, log), NoteList)


def clear(scope: str = "session") -> int:
    """Delete all notes of a scope; return their number."""
    return session.call("memory.clear", ScopeRef(scope), Cleared).removed


def scopes() -> Sequence[ScopeUsage]:
    """Return the size and limits of this agent's own scopes."""
    return session.call("memory.scopes", Empty(), ScopeList).scopes
