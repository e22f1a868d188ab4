"""Search in files: which passages have the words, or the meaning, of a query.

A search looks in an agent's home and its mounted folders, or below one path of either. The caller's
right to read a file of a mount is asked before the file counts among the best, so no result or note
depends on files that the caller may not read. A search waits until what it searches is indexed and
the query has its vector, but only until a given time; then it answers with what there is, and its
note says so.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, Promise
from aios.kernel.storage.db.commit import Committer
from aios.kernel.storage.files import mount_list
from aios.kernel.storage.files import tree as files
from aios.kernel.storage.files.paths import Place
from aios.kernel.storage.files.shares import allow
from aios.syscalls.errors import PermissionDenied
from aios.syscalls.types.storage import FsFound, FsSearch, MountInfo, SearchHit

from . import mount_table
from .index import Index
from .mount_refresh import Condition, Refresher
from .passages import Passages
from .ranking import Found, Mode, Query, best
from .text import MAX_TEXT_BYTES

May = Callable[[str], bool]
"""Returns True if the caller may read a path, as it names it. Pure; called in any thread."""
_QUERY, _HOME = "", "home"
"""Names, in addition to folders, of what a search waits for: the query's vector, the home."""
_MAX_NOTES = 8
"""Limit on mounts that a search's note tells of."""
_NO_MODEL = "searched by keyword: there is no embedding model for search by meaning"
_LATE = "searched by keyword: the query's vector was not there in time"
_INDEXING = "it is being indexed; what is not read yet is not found"
_EMBEDDING = "some of its passages are not found by meaning yet; their vectors are being computed"
_CUT = f"of files above {MAX_TEXT_BYTES >> 20} MiB only the beginning is searched"


class Scope(NamedTuple):
    """Where a search looks: in a home, or its files ``among``, and below ``path`` of mounts.
    ``named``: the caller has named the path."""

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
        self._loop, self._committer = loop, committer
        self._index, self._refresher = index, refresher

    async def search(
        self, place: Place, agent: str, body: FsSearch, may: May, until_s: float
    ) -> FsFound:
        """Return the best passages below a path. ``until_s``: when to answer with what there is, on
        the loop's clock."""
        scope = await self._committer.read(lambda c: _scope(c, place, agent), place.shown())
        if place.kind == "mount" and place.path:
            await self._refresher.check_exists(scope.mounts[0], place.path)
        mode, vector, note, late = await self._prepare(scope, body, until_s)
        conditions = {
            mount.folder: self._refresher.condition(mount.folder) for mount in scope.mounts
        }
        look = _Look(scope, body, vector, mode, may, conditions, late)
        found, notes = await self._index.ask(look.find)
        hits = await self._committer.read(lambda c: _hits(c, scope.home, found, may))
        return FsFound(hits, mode, "; ".join([*([note] if note else []), *notes]))

    async def _prepare(self, scope: Scope, body: FsSearch, until_s: float) -> _Prepared:
        """Wait until the scope is indexed and the query has its vector, or until the time is up."""
        awaited: dict[str, Promise[Any]] = {}
        embedder = self._index.embedder
        if embedder is not None and body.mode != "keyword":
            awaited[_QUERY] = embedder.embed([body.query], "query")
        for folder in dict.fromkeys(mount.folder for mount in scope.mounts):
            awaited[folder] = self._refresher.refresh(folder)
        if scope.home:
            awaited[_HOME] = self._index.when_current()
        outcomes = await _settled(self._loop, awaited, until_s)
        late = frozenset(awaited.keys() - outcomes.keys())
        for folder in late - {_QUERY, _HOME}:
            self._refresher.leave(folder, awaited[folder])
        if _QUERY not in awaited:
            return _Prepared("keyword", None, _NO_MODEL if body.mode == "semantic" else "", late)
        got = outcomes.get(_QUERY)
        if got is None:
            return _Prepared("keyword", None, _LATE, late)
        if got.error:
            return _Prepared("keyword", None, f"searched by keyword: {got.error}", late)
        mode: Mode = "semantic" if body.mode == "semantic" else "mixed"
        return _Prepared(mode, got.result()[0], "", late)


class _Prepared(NamedTuple):
    """How to search. ``note``: why not by meaning. ``late``: what was not ready in time."""

    mode: Mode
    vector: bytes | None
    note: str
    late: frozenset[str]


def _settled(
    loop: Loop, awaited: dict[str, Promise[Any]], until_s: float
) -> Promise[dict[str, Outcome[Any]]]:
    """Return a promise of the outcomes there are when all are there, or the time is up."""
    all_settled: Promise[dict[str, Outcome[Any]]] = Promise()
    outcomes: dict[str, Outcome[Any]] = {}
    timer = loop.at(until_s, lambda: all_settled.resolve(dict(outcomes)))

    def got(name: str, outcome: Outcome[Any]) -> None:
        outcomes[name] = outcome
        if len(outcomes) == len(awaited) and not timer.cancelled:
            timer.cancel()
            all_settled.resolve(outcomes)

    for name, promise in awaited.items():
        promise.then(partial(got, name))
    if not awaited:
        timer.cancel()
        all_settled.resolve({})
    return all_settled


class _Look(NamedTuple):
    """One search, as the index's thread does it."""

    scope: Scope
    body: FsSearch
    vector: bytes | None
    mode: Mode
    may: May
    conditions: dict[str, Condition]
    late: frozenset[str]
    """Name what is not up to date: folders, the home."""

    def find(self, passages: Passages) -> tuple[list[Found], list[str]]:
        """Return the best passages, and notes for the caller."""
        home = self.scope.home
        there = [m.folder for m in self.scope.mounts if self.conditions[m.folder].there]
        owners = [*([home.owner] if home else []), *dict.fromkeys(there)]
        body = self.body
        query = Query(body.query, self.vector, self.mode, owners, self.scope.among, body.limit)
        found = best(passages, query, lambda file: self._name(passages, file))
        return found, self._notes(passages)

    def _name(self, passages: Passages, file: int) -> str | None:
        """Return the caller's name of a file: '' in a home, where it is resolved at the end; None
        when it may not be read."""
        if file >= 0:
            return ""
        known = mount_table.find(passages, file)
        for mount in self.scope.mounts if known else ():
            if known and mount.folder == known.folder and (name := self._seen(mount, known.path)):
                return name
        return None

    def _seen(self, mount: MountInfo, path: str) -> str | None:
        """Return the caller's name of a path, if it is searched and may be read."""
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
        more = len(notes) - _MAX_NOTES
        return notes if more <= 0 else [*notes[:_MAX_NOTES], f"and {more} other mounts"]

    def _about(self, passages: Passages, mount: MountInfo) -> list[str]:
        condition, folder = self.conditions[mount.folder], mount.folder
        if not condition.there:
            return [f"it cannot be read ({condition.note})"]
        said = [condition.note] if condition.note else []
        if folder in self.late:
            said.append(_INDEXING)
        elif self.vector and self._any(mount, mount_table.without_vectors(passages, folder)):
            said.append(_EMBEDDING)
        if self._any(mount, mount_table.cut(passages, folder)):
            said.append(_CUT)
        return said

    def _knows(self, passages: Passages, mount: MountInfo) -> bool:
        """Return True if the caller may know that a mount exists."""
        if self.scope.named or self.may(f"/mnt/{mount.name}"):
            return True
        return self._any(mount, mount_table.paths(passages, mount.folder))

    def _any(self, mount: MountInfo, paths: Sequence[str]) -> bool:
        return any(self._seen(mount, path) for path in paths)


# ------------------------------------------------------------------------------ on meta.db


def _scope(connection: sqlite3.Connection, place: Place, agent: str) -> Scope:
    """Return where to look. Raises AiosError when the caller may not search there."""
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
    """Return hits under the files' names, which in a home are those that they have now."""
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
