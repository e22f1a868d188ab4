"""Request and reply types of ``memory.*``, with their limits.

Notes live in scopes: ``session`` (the agent's life), ``agent`` (by its name, survives runs and
kernels) and ``shared:NAME`` (by grant). The operator names them in full: ``session:PID``,
``agent:NAME``.
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
"""``s…`` of a session's note, ``n…`` of one that lasts; never used twice while its scope lives."""
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
    """Keep a text. ``persist`` is ``scope="agent"`` in another word: it outlives the agent."""

    text: NoteText
    scope: Scope = "session"
    persist: bool = False


class NoteRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which note."""

    id: NoteId


class UpdateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Replace the text; with ``persist`` move a session's note to the agent's scope, where it has
    another id."""

    id: NoteId
    text: NoteText | None = None
    persist: bool = False


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``k`` best notes for a text.

    ``mode``: by words, by meaning, or both (``mixed``, ranks fused); ``auto`` takes what there is.
    ``log``: entries of the interaction log, too. Notes that have no vector yet are found by their
    words only; a search waits for them when they are few, with ``fresh`` always.
    """

    query: Annotated[str, Meta(min_length=1, max_length=MAX_QUERY_CHARS)]
    k: Annotated[int, Meta(ge=1, le=MAX_HITS)] = 5
    scopes: Scopes = ("session", "agent")
    mode: Literal["auto", "keyword", "semantic", "mixed"] = "auto"
    log: bool = False
    fresh: bool = False


class Hit(msgspec.Struct, frozen=True):
    """A note that was found. Ranks begin at 1; None: not among the best by that measure.
    ``similarity``: the cosine between its meaning and the query's, where that was looked at."""

    note: Note
    score: float
    keyword_rank: int | None
    semantic_rank: int | None
    similarity: float | None = None


class SearchReply(msgspec.Struct, frozen=True):
    """Best first. ``mode``: how the search was done; ``why``: the reason when that is not what was
    wished for. ``pending``: notes in these scopes whose meaning is not known yet."""

    hits: list[Hit]
    mode: SearchMode
    why: str = ""
    pending: int = 0


class ListRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Notes in the order they were added, after the one named; ``log``: the interaction log."""

    scope: Scope = "session"
    after: NoteId | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    log: bool = False


class ScopeUsage(msgspec.Struct, frozen=True):
    """What a scope holds and may hold; ``ram_bytes``: of it in memory."""

    scope: str
    notes: int
    size_bytes: int
    most_notes: int
    most_bytes: int
    ram_bytes: int


class NoteList(msgspec.Struct, frozen=True):
    """``more``: there are others after these (a page ends at 4 MiB, too)."""

    notes: list[Note]
    more: bool
    usage: ScopeUsage


class ScopeRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which scope."""

    scope: Scope


class ScopeList(msgspec.Struct, frozen=True):
    """Scopes that hold something: the caller's own; for the operator, all."""

    scopes: list[ScopeUsage]


class Cleared(msgspec.Struct, frozen=True):
    """How many notes were removed."""

    removed: int


class BackupRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Copy all lasting notes to a file that does not exist yet, as one consistent state."""

    path: Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^/[^\x00]*\Z")]


class MemoryReport(msgspec.Struct, frozen=True):
    """What the lasting notes are in; ``damaged``: ids whose checksum does not fit."""

    path: str
    notes: int
    damaged: list[str]
    problems: list[str]
    embedder: str
