"""Writers for tests that kill the kernel.

Each makes one change after another to data of its own, and knows exactly what must be there: the
acknowledged state, and the change under way whole or not at all.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from aios.syscalls.client import Connection
from aios.syscalls.errors import NotFound
from aios.syscalls.types import memory as m
from aios.syscalls.types import storage as s

SCOPE = "agent"
SIZES = (100, 100, 4096, 4096, 4096, 90_000)
"""Sizes of contents in bytes; the last is too large for the database."""


class Writer:
    """``state``: what is acknowledged. ``wanted``: the state after the change under way, if any."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.state: Any = self.nothing()
        self.wanted: Any = None
        self.done: Counter[str] = Counter()
        """Acknowledged changes by call."""
        self.undecided: Counter[str] = Counter()
        """Changes under way when the kernel died, by whether they were done."""

    def nothing(self) -> Any:
        """Return the state before the first change."""
        return {}

    def step(self, connection: Connection) -> None:
        """Make one change."""
        raise NotImplementedError

    def look(self, connection: Connection) -> Any:
        """Return the state that the kernel shows."""
        raise NotImplementedError

    def change(self, connection: Connection, call: str, body: Any, wanted: Any) -> Any:
        """Make a change; return the reply."""
        self.wanted = wanted
        reply = connection.call(call, body)
        self.state, self.wanted = wanted, None
        self.done[call] += 1
        return reply

    def check(self, connection: Connection) -> None:
        """Check that the state is the acknowledged or the wanted one. It then counts as
        acknowledged."""
        found = self.look(connection)
        if self.wanted is not None:
            self.undecided["done" if self.same(found, self.wanted) else "not done"] += 1
        if not (self.same(found, self.state) or self.same(found, self.wanted)):
            kinds = ("found", found), ("before", self.state), ("wanted", self.wanted)
            told = "; ".join(f"{name}: {_short(state)}" for name, state in kinds)
            raise AssertionError(f"{type(self).__name__}: {told}")
        self.state, self.wanted = found, None

    def same(self, found: Any, expected: Any) -> bool:
        """Return True if this is the expected state."""
        return bool(found == expected)

    def check_all(self, connection: Connection) -> None:
        """Check everything ever written, where that is more than the state."""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _short(state: Any) -> Any:
    """Shorten a state for an error message."""
    if isinstance(state, dict):
        return {key: _short(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_short(value) for value in state[-4:]]
    return f"{state[:24]!r} ({len(state)})" if isinstance(state, (str, bytes)) else state


class Versions(Writer):
    """``fs.write`` to one file: every acknowledged version."""

    def __init__(self, rng: random.Random, path: str) -> None:
        super().__init__(rng)
        self._path = path

    def nothing(self) -> list[str]:
        return []

    def step(self, connection: Connection) -> None:
        data = self.rng.randbytes(self.rng.choice(SIZES))
        wanted = [*self.state, _digest(data)]
        info = self.change(connection, "fs.write", s.FsWrite(self._path, data), wanted)
        assert info.version == len(wanted)

    def look(self, connection: Connection) -> list[str]:
        """Read the newest versions; only count the older ones."""
        try:
            history: s.FsVersions = connection.call("fs.history", s.FsPath(self._path))
        except NotFound:
            return []
        numbers = [each.version for each in history.versions]
        assert numbers == list(range(len(numbers), 0, -1))
        newest = [self._read(connection, number) for number in numbers[:3]][::-1]
        return [*self.state[: len(numbers) - len(newest)], *newest]

    def check_all(self, connection: Connection) -> None:
        found = [self._read(connection, number + 1) for number in range(len(self.state))]
        assert found == self.state, f"a version of {self._path} is not what was written"

    def _read(self, connection: Connection, number: int) -> str:
        got: s.FsData = connection.call("fs.read", s.FsRead(self._path, version=number))
        return _digest(got.data)


class Appends(Writer):
    """``fs.write`` to the end of a file, which is overwritten when it has become long."""

    _MAX_BYTES = 300_000

    def nothing(self) -> bytes:
        return b""

    def step(self, connection: Connection) -> None:
        data = self.rng.randbytes(self.rng.choice(SIZES))
        fits = len(self.state) + len(data) <= self._MAX_BYTES
        wanted = self.state + data if fits else data
        self.change(connection, "fs.write", s.FsWrite("/log", data, append=fits), wanted)
        self.done["fs.append"] += fits

    def look(self, connection: Connection) -> bytes:
        try:
            got: s.FsData = connection.call("fs.read", s.FsRead("/log"))
        except NotFound:
            return b""
        return got.data


class Tree(Writer):
    """Files in a folder: written, moved, deleted, and moved with the whole folder."""

    _MOST = 6

    def step(self, connection: Connection) -> None:
        rng, files = self.rng, self.state
        names = sorted(files)
        here = names[0].split("/")[1] if names else "t0"
        free = f"/{here}/{rng.choice('abcd')}/{rng.randrange(1000)}"
        what = rng.choice(("write", "write", "move", "delete", "delete", "move all"))
        if len(files) < 2 or free in files:
            what = "write"
        elif len(files) > self._MOST:
            what = "delete"
        one = rng.choice(names) if names else ""
        if what == "write":
            data = rng.randbytes(rng.choice(SIZES))
            self.change(
                connection, "fs.write", s.FsWrite(free, data), {**files, free: _digest(data)}
            )
        elif what == "move":
            wanted = {free if name == one else name: files[name] for name in files}
            self.change(connection, "fs.move", s.FsMove(one, free), wanted)
        elif what == "delete":
            wanted = {name: files[name] for name in files if name != one}
            self.change(connection, "fs.delete", s.FsDelete(one), wanted)
        else:
            there = "t1" if here == "t0" else "t0"
            wanted = {name.replace(here, there, 1): files[name] for name in files}
            self.change(connection, "fs.move", s.FsMove(f"/{here}", f"/{there}"), wanted)

    def look(self, connection: Connection) -> dict[str, str]:
        found = {}
        for path in [path for top in ("/t0", "/t1") for path in _files(connection, top)]:
            got: s.FsData = connection.call("fs.read", s.FsRead(path))
            found[path] = _digest(got.data)
        return found


def _files(connection: Connection, folder: str) -> Iterator[str]:
    try:
        listed: s.FsEntries = connection.call("fs.list", s.FsList(folder))
    except NotFound:
        return
    for entry in listed.entries:
        if entry.kind == "folder":
            yield from _files(connection, entry.path)
        else:
            yield entry.path


class Values(Writer):
    """``kv.set`` and ``kv.delete`` of some keys; no value is set twice."""

    _written = 0

    def step(self, connection: Connection) -> None:
        key = f"key{self.rng.randrange(6)}"
        if key in self.state and self.rng.random() < 0.6:
            wanted = {k: v for k, v in self.state.items() if k != key}
            self.change(connection, "kv.delete", s.KvDelete(key), wanted)
            return
        self._written += 1
        value = [self._written, self.rng.randbytes(self.rng.choice((10, 4000)))]
        self.change(connection, "kv.set", s.KvSet(key, value), {**self.state, key: value})

    def look(self, connection: Connection) -> dict[str, Any]:
        keys: s.KvKeys = connection.call("kv.list", s.KvList())
        return {key: connection.call("kv.get", s.KvKey(key)).value for key in keys.keys}


class Notes(Writer):
    """``memory.add``, ``update`` and ``remove``; an id is never used for another note."""

    _MOST = 30
    _NEW = "the note under way"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._number = 0
        self._used: set[str] = set()

    def step(self, connection: Connection) -> None:
        ids = sorted(self.state)
        what = self.rng.choice(("add", "update", "remove")) if len(ids) > 3 else "add"
        what = "remove" if len(ids) > self._MOST else what
        one = self.rng.choice(ids) if ids else ""
        self._number += 1
        text = f"note number {self._number} " + "and more " * self.rng.choice((1, 20, 2000))
        if what == "remove":
            wanted = {id_: told for id_, told in self.state.items() if id_ != one}
            self.change(connection, "memory.remove", m.NoteRef(one), wanted)
        elif what == "update":
            body = m.UpdateRequest(one, text)
            note = self.change(connection, "memory.update", body, {**self.state, one: text})
            assert note.id == one
        else:
            before = self.state
            note = self.change(
                connection, "memory.add", m.AddRequest(text, SCOPE), {**before, self._NEW: text}
            )
            self.state = {**before, note.id: text}
            self._is_new(note.id)

    def _is_new(self, id_: str) -> None:
        assert id_ not in self._used, f"{id_} was another note's"
        self._used.add(id_)

    def look(self, connection: Connection) -> dict[str, str]:
        return {note.id: note.text for note in all_notes(connection)}

    def same(self, found: Any, expected: Any) -> bool:
        if expected is None or self._NEW not in expected:
            return bool(found == expected)
        new = found.keys() - expected.keys()
        if len(new) != 1:
            return False
        (id_,) = new
        known = {k: v for k, v in expected.items() if k != self._NEW}
        return bool(found == {**known, id_: expected[self._NEW]})

    def check(self, connection: Connection) -> None:
        before = self.state
        super().check(connection)
        for id_ in self.state.keys() - before.keys():
            self._is_new(id_)


def all_notes(connection: Connection) -> Iterator[m.Note]:
    """Yield every note of the scope."""
    after, more = None, True
    while more:
        page: m.NoteList = connection.call("memory.list", m.ListRequest(SCOPE, after, 1000))
        yield from page.notes
        after, more = page.notes[-1].id if page.notes else None, page.more
