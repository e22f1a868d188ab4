"""Request and reply types of ``memory.*``: notes.

A note is in a scope: ``session`` (the agent's life), ``agent`` (by the agent's name; survives the
agent and the kernel) or ``shared:NAME`` (by grant). The operator gives scopes in full:
``session:PID``, ``agent:NAME``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_NOTE_CHARS = 1 << 16
MAX_QUERY_CHARS = 8192
MAX_HITS = 100

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
SCOPE_PATTERN = rf"^(session(:[0-9]{{1,18}})?|agent(:{_NAME})?|shared:{_NAME})\Z"
Scope = Annotated[str, Meta(max_length=80, pattern=SCOPE_PATTERN)]
Scopes = Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=16)]
NOTE_ID_PATTERN = r"^[sn][0-9]{1,18}\Z"
NoteId = Annotated[str, Meta(max_length=20, pattern=NOTE_ID_PATTERN)]
"""``s…`` for a session's note, ``n…`` for a lasting one; unique in the life of its scope."""
NoteText = Annotated[str, Meta(min_length=1, max_length=MAX_NOTE_CHARS)]
NoteKind = Literal["note", "prompt", "reply"]
SearchMode = Literal["keyword", "semantic", "mixed"]


class Note(msgspec.Struct, frozen=True):
    """A note, or (``prompt``, ``reply``) an entry of the interaction log."""

    id: str
    scope: str
    kind: NoteKind
    text: str
    created_unix: float
    updated_unix: float


class AddRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Add a note. ``persist`` is the same as ``scope="agent"``: the note outlives the agent."""

    text: NoteText
    scope: Scope = "session"
    persist: bool = False


class NoteRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A note by its id."""

    id: NoteId


class UpdateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Replace a note's text. ``persist`` moves a session's note to the agent's scope, where it gets
    a new id."""

    id: NoteId
    text: NoteText | None = None
    persist: bool = False


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Find the ``k`` best notes for a query.

    ``mode``: by words, by meaning, or both (``mixed``, ranks fused); ``auto`` uses what is
    available. ``log`` includes the interaction log. A note without a vector is found by its words
    only; the search waits for missing vectors if they are few, and with ``fresh`` always.
    """

    query: Annotated[str, Meta(min_length=1, max_length=MAX_QUERY_CHARS)]
    k: Annotated[int, Meta(ge=1, le=MAX_HITS)] = 5
    scopes: Scopes = ("session", "agent")
    mode: Literal["auto", "keyword", "semantic", "mixed"] = "auto"
    log: bool = False
    fresh: bool = False


class Hit(msgspec.Struct, frozen=True):
    """A note that matches. Ranks start at 1; None: not among the best by that measure.
    ``similarity``: cosine of the note's and the query's vector, if it was computed."""

    note: Note
    score: float
    keyword_rank: int | None
    semantic_rank: int | None
    similarity: float | None = None


class SearchReply(msgspec.Struct, frozen=True):
    """Hits, best first. ``mode``: how the search was done; ``why``: the reason if that is not the
    requested mode. ``pending``: notes in these scopes that have no vector yet."""

    hits: list[Hit]
    mode: SearchMode
    why: str = ""
    pending: int = 0


class ListRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List notes in the order of adding, after the one named. ``log``: the interaction log
    instead."""

    scope: Scope = "session"
    after: NoteId | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    log: bool = False


class ScopeUsage(msgspec.Struct, frozen=True):
    """The size and the limits of a scope. ``ram_bytes``: the part of it in memory."""

    scope: str
    notes: int
    size_bytes: int
    most_notes: int
    most_bytes: int
    ram_bytes: int


class NoteList(msgspec.Struct, frozen=True):
    """A page of notes (4 MiB at most). ``more``: others follow."""

    notes: list[Note]
    more: bool
    usage: ScopeUsage


class ScopeRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scope by its name."""

    scope: Scope


class ScopeList(msgspec.Struct, frozen=True):
    """Scopes that are not empty: the caller's own; for the operator, all."""

    scopes: list[ScopeUsage]


class Cleared(msgspec.Struct, frozen=True):
    """The number of notes removed."""

    removed: int


class BackupRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Copy all lasting notes, in one consistent state, to a file that does not exist yet."""

    path: Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^/[^\x00]*\Z")]


class MemoryReport(msgspec.Struct, frozen=True):
    """The file of the lasting notes. ``damaged``: ids of notes with a wrong checksum."""

    path: str
    notes: int
    damaged: list[str]
    problems: list[str]
    embedder: str
