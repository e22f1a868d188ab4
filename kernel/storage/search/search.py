"""Search: which passages of text files have the words, or the meaning, of a query.

In an agent's home and the folders that are mounted for it, or below one path of either. Whether the
caller may read a file of a mount is asked before it is counted among the best, so nothing that is
found, or said, depends on files that it may not read. A search waits until what it searches is in
the index and the query has its vector, but only until a time that the caller gives; then it answers
with what there is, and its note says so.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.storage.db.commit import Committer, Done
from aios.kernel.storage.files import mount_list
from aios.kernel.storage.files import tree as files
from aios.kernel.storage.files.paths import Place
from aios.kernel.storage.files.shares import allow
from aios.syscalls.errors import PermissionDenied
from aios.syscalls.types.storage import FsFound, FsSearch, MountInfo, SearchHit

from . import mounted
from .index import Index
from .passages import MOST_TEXT_BYTES, Found, Passages
from .refresh import Condition, Refresher

May = Callable[[str], bool]
"""Whether the caller may read a path, as it names it; pure, called in any thread."""
Mode = Literal["keyword", "semantic", "mixed"]
_QUERY, _HOME = "", "home"
"""What is waited for, beside folders: the query's vector, and the home."""
_MOST_NOTES = 8
_NO_MODEL = "searched by keyword: there is no embedding model for search by meaning"
_LATE = "searched by keyword: the query's vector was not there in time"
_INDEXING = "it is being indexed; what is not read yet is not found"
_EMBEDDING = "some of its passages are not found by meaning yet; their vectors are being computed"
_CUT = f"of files above {MOST_TEXT_BYTES >> 20} MiB only the beginning is searched"


class Scope(NamedTuple):
    """Where a search looks: in a home or what ``among`` has of it, and below ``path`` of mounts.
    ``named``: it is the path that the caller has named."""

    home: Place | None
    among: list[int] | None
    mounts: list[MountInfo]
    path: str
    named: bool


class Search:
    """Answers ``fs.search``."""

    def __init__(
        self, loop: Loop, committer: Committer, index: Index, refresher: Refresher
    ) -> None:
        self.loop, self.committer = loop, committer
        self.index, self.refresher = index, refresher

    def search(
        self, place: Place, agent: str, body: FsSearch, may: May, until_s: float,
        done: Done[FsFound],
    ) -> None:  # fmt: skip
        """The best passages below a path. ``until_s``: on the monotonic clock, when to answer with
        what there is."""

        def begin(outcome: Outcome[Scope]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
            else:
                _Task(self, outcome.result(), body, may, done).begin(until_s)

        def looked(outcome: Outcome[Scope]) -> None:
            if outcome.error or place.kind != "mount" or not place.path:
                begin(outcome)
                return
            (mount,) = outcome.result().mounts
            self.refresher.exists(
                mount, place.path, lambda there: begin(Outcome(outcome.value, there.error))
            )

        self.committer.view(lambda c: _scope(c, place, agent), looked, place.shown())


class _Task:
    """One search under way."""

    def __init__(
        self, search: Search, scope: Scope, body: FsSearch, may: May, done: Done[FsFound]
    ) -> None:
        self._search, self._scope, self._body = search, scope, body
        self._may, self._done = may, done
        self._missing = {mount.folder for mount in scope.mounts}
        self._off: list[Callable[[], None]] = []
        self._vector: bytes | None = None
        self._mode: Mode = "keyword"
        self._note = ""

    def begin(self, until_s: float) -> None:
        """Wait for what it needs, but not longer than until then."""
        self._timer = self._search.loop.at(until_s, self._go_on)
        folders = list(self._missing)
        embedder, wanted = self._search.index.embedder, self._body.mode
        if self._scope.home:
            self._missing.add(_HOME)
        if embedder is not None and wanted != "keyword":
            self._missing.add(_QUERY)
            self._note = _LATE
            embedder.embed([self._body.query], self._embedded, kind="query")
        elif wanted == "semantic":
            self._note = _NO_MODEL
        self._off = [self._search.refresher.refresh(folder, partial(self._got, folder))
                     for folder in folders]  # fmt: skip
        if self._scope.home:
            self._off.append(self._search.index.when_current(partial(self._got, _HOME)))
        self._check()

    def _embedded(self, outcome: Outcome[list[bytes]]) -> None:
        if self._timer.cancelled:
            return
        if outcome.error:
            self._note = f"searched by keyword: {outcome.error}"
        else:
            (self._vector,), self._note = outcome.result(), ""
            self._mode = "semantic" if self._body.mode == "semantic" else "mixed"
        self._got(_QUERY)

    def _got(self, what: str) -> None:
        self._missing.discard(what)
        self._check()

    def _check(self) -> None:
        if not self._missing and not self._timer.cancelled:
            self._timer.cancel()
            self._go_on()

    def _go_on(self) -> None:
        """All is there, or it is time."""
        for off in self._off:
            off()
        conditions = {
            mount.folder: self._search.refresher.condition(mount.folder)
            for mount in self._scope.mounts
        }
        look = _Look(self._scope, self._body, self._vector, self._mode, self._may, conditions,
                     frozenset(self._missing))  # fmt: skip
        self._search.index.ask(look.find, self._found)

    def _found(self, outcome: Outcome[tuple[list[Found], list[str]]]) -> None:
        if outcome.error:
            self._done(Outcome(None, outcome.error))
            return
        found, notes = outcome.result()
        note = "; ".join([*([self._note] if self._note else []), *notes])

        def named(hits: Outcome[list[SearchHit]]) -> None:
            if hits.error:
                self._done(Outcome(None, hits.error))
            else:
                self._done(Outcome(FsFound(hits.result(), self._mode, note), None))

        home = self._scope.home
        self._search.committer.view(lambda c: _hits(c, home, found, self._may), named)


class _Look(NamedTuple):
    """What the thread of the index does for one search."""

    scope: Scope
    body: FsSearch
    vector: bytes | None
    mode: Mode
    may: May
    conditions: dict[str, Condition]
    late: frozenset[str]
    """What is not up to date."""

    def find(self, passages: Passages) -> tuple[list[Found], list[str]]:
        """The best passages, and what the caller should know."""
        home = self.scope.home
        there = [m.folder for m in self.scope.mounts if self.conditions[m.folder].there]
        owners = [*([home.owner] if home else []), *dict.fromkeys(there)]
        found = passages.find(
            owners, self.body.query, self.vector, self.mode, self.scope.among, self.body.limit,
            lambda file: self._name(passages, file),
        )  # fmt: skip
        return found, self._notes(passages)

    def _name(self, passages: Passages, file: int) -> str | None:
        if file >= 0:
            return ""
        known = mounted.find(passages, file)
        for mount in self.scope.mounts if known else ():
            if known and mount.folder == known.folder and (name := self._seen(mount, known.path)):
                return name
        return None

    def _seen(self, mount: MountInfo, path: str) -> str | None:
        """The caller's name of a path, if it is searched and may be read."""
        below = self.scope.path
        name = f"/mnt/{mount.name}/{path}"
        inside = not below or path == below or path.startswith(f"{below}/")
        return name if inside and self.may(name) else None

    def _notes(self, passages: Passages) -> list[str]:
        home = self.scope.home
        notes = [f"{home.shown()}: {_INDEXING}"] if home and _HOME in self.late else []
        for mount in self.scope.mounts:
            said = self._about(passages, mount)
            if said and self._knows(passages, mount):
                notes.append(f"/mnt/{mount.name}: {', and '.join(said)}")
        more = len(notes) - _MOST_NOTES
        return notes if more <= 0 else [*notes[:_MOST_NOTES], f"and {more} other mounts"]

    def _about(self, passages: Passages, mount: MountInfo) -> list[str]:
        condition, folder = self.conditions[mount.folder], mount.folder
        if not condition.there:
            return [f"it cannot be read ({condition.note})"]
        said = [condition.note] if condition.note else []
        if folder in self.late:
            said.append(_INDEXING)
        elif self.vector and self._any(mount, mounted.without_vectors(passages, folder)):
            said.append(_EMBEDDING)
        if self._any(mount, mounted.cut(passages, folder)):
            said.append(_CUT)
        return said

    def _knows(self, passages: Passages, mount: MountInfo) -> bool:
        """Whether the caller may know of a mount at all."""
        if self.scope.named or self.may(f"/mnt/{mount.name}"):
            return True
        return self._any(mount, mounted.paths(passages, mount.folder))

    def _any(self, mount: MountInfo, paths: Sequence[str]) -> bool:
        return any(self._seen(mount, path) for path in paths)


# ------------------------------------------------------------------------------ on meta.db


def _scope(connection: sqlite3.Connection, place: Place, agent: str) -> Scope:
    """Where to look. Raises what stands against it."""
    if place.kind == "mounts":
        return Scope(None, None, mount_list.mounts(connection, agent), "", False)
    if place.kind == "mount":
        mount = mount_list.find_mount(connection, agent, place.owner)
        return Scope(None, None, [mount], place.path, True)
    if place.kind not in ("home", "shared"):
        raise PermissionDenied(f"{place.shown()} is not searched", "search a path below it")
    allow(connection, place, agent, "read")
    file = files.get(connection, place.owner, place.path)
    if not place.path:
        own = place.kind == "home" and not place.prefix
        return Scope(place, None, mount_list.mounts(connection, agent) if own else [], "", False)
    if file.kind == "file":
        return Scope(place, [file.id], [], "", False)
    found = files.below(connection, place.owner, place.path, live=True, whole=True)
    return Scope(place, [f.id for f in found], [], "", False)


def _hits(
    connection: sqlite3.Connection, home: Place | None, found: Sequence[Found], may: May
) -> list[SearchHit]:
    """Under the files' names; in a home, as they are now."""
    hits = []
    for each in found:
        path = each.name or (_path(connection, home, each.file) if home else None)
        if path and math.isfinite(each.score) and may(path):
            hits.append(SearchHit(path, each.version, each.offset, each.text, each.score))
    return hits


def _path(connection: sqlite3.Connection, home: Place, file: int) -> str | None:
    row = connection.execute(
        "SELECT parent, name FROM file WHERE id = ? AND owner = ? AND live = 1",
        (file, home.owner),
    ).fetchone()
    return home.shown(f"{row[0]}/{row[1]}".lstrip("/")) if row else None
