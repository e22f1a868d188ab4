"""Storage without a kernel around it: a loop, and calls that are waited for."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.storage.chores import Chores
from aios.kernel.storage.files.paths import resolve
from aios.kernel.storage.files.quota import Limits
from aios.kernel.storage.manager import Storage
from aios.syscalls.types import storage as s
from tests.waiting import turn_until

BIG = random.Random(1).randbytes(3_000_000)


class Rig:
    """Operations of agents by name, each waited for; they raise what the call would."""

    def __init__(self, folder: Path, url: str = "", quota: int = 1 << 30, keep: int = 16) -> None:
        self.loop = Loop()
        self.storage = Storage(self.loop, folder, url, Limits(quota, keep))
        self.chores = Chores(self.storage)
        self.storage.open()
        self.ask(lambda done: self.storage.when_open(lambda: done(Outcome(None, None))))

    def ask(self, begin: Callable[[Any], None]) -> Any:
        """Start an operation and turn the loop until it has ended."""
        outcomes: list[Outcome[Any]] = []
        begin(outcomes.append)
        return turn_until(self.loop, lambda: outcomes, "an outcome of storage")[0].result()

    def close(self) -> None:
        """As the kernel does at its end."""
        self.storage.close()
        self.loop.close()

    def write(self, agent: str, path: str, data: bytes, **more: Any) -> s.FileInfo:
        body = s.FsWrite(path, data, **more)
        found: s.FileInfo = self.ask(
            lambda done: self.storage.write(resolve(path, agent), agent, body, done)
        )
        return found

    def read(self, agent: str, path: str, **more: Any) -> bytes:
        body = s.FsRead(path, **more)
        found: s.FsData = self.ask(
            lambda done: self.storage.read(resolve(path, agent), agent, body, done)
        )
        return found.data

    def names(self, agent: str, path: str = "/") -> list[str]:
        found: s.FsEntries = self.ask(
            lambda done: self.storage.entries(resolve(path, agent), agent, "", 1000, done)
        )
        return [entry.path for entry in found.entries]

    def stat(self, agent: str, path: str) -> s.FileInfo:
        found: s.FileInfo = self.ask(
            lambda done: self.storage.stat(resolve(path, agent), agent, done)
        )
        return found

    def mkdir(self, agent: str, path: str) -> None:
        self.ask(lambda done: self.storage.mkdir(resolve(path, agent), agent, done))

    def move(self, agent: str, source: str, target: str) -> None:
        left, right = resolve(source, agent), resolve(target, agent)
        self.ask(lambda done: self.storage.move(left, right, agent, done))

    def delete(self, agent: str, path: str, recursive: bool = False) -> None:
        self.ask(lambda done: self.storage.delete(resolve(path, agent), agent, recursive, done))

    def history(self, agent: str, path: str) -> list[s.VersionInfo]:
        found: s.FsVersions = self.ask(
            lambda done: self.storage.history(resolve(path, agent), agent, done)
        )
        return found.versions

    def rollback(self, agent: str, path: str, version: int) -> s.FileInfo:
        found: s.FileInfo = self.ask(
            lambda done: self.storage.rollback(resolve(path, agent), agent, version, done)
        )
        return found

    def prune(self, agent: str, path: str = "/", keep: int = 1) -> s.FsPruned:
        found: s.FsPruned = self.ask(
            lambda done: self.storage.prune(resolve(path, agent), agent, keep, done)
        )
        return found

    def share(self, owner: str, path: str, with_: str, rights: s.Rights | None = "read") -> None:
        self.ask(lambda done: self.storage.share(resolve(path, owner), with_, rights, done))

    def mount(self, agent: str, name: str, folder: Path | None, writable: bool = False) -> None:
        body = s.MountRequest(agent, name, str(folder) if folder else None, writable)
        self.ask(lambda done: self.storage.mount(body, done))

    def usage(self, owner: str) -> s.FsUsage:
        found: s.FsUsage = self.ask(lambda done: self.storage.usage(owner, done))
        return found

    def search(
        self, agent: str, query: str, path: str = "/", *, within_s: float = 60.0,
        may: Callable[[str], bool] = lambda path: True, **more: Any,
    ) -> s.FsFound:  # fmt: skip
        body, until_s = s.FsSearch(query, path, **more), time.monotonic() + within_s
        place = resolve(path, agent)
        found: s.FsFound = self.ask(
            lambda done: self.storage.finder.search(place, agent, body, may, until_s, done)
        )
        return found

    def set_value(self, agent: str, key: str, value: bytes, expect: int | None = None) -> s.KvEntry:
        found: s.KvEntry = self.ask(
            lambda done: self.storage.set_value(agent, key, value, expect, done)
        )
        return found

    def value(self, agent: str, key: str) -> s.KvEntry:
        found: s.KvEntry = self.ask(lambda done: self.storage.get_value(agent, key, done))
        return found

    def begin_upload(self, agent: str, path: str, owner: str) -> s.FsUpload:
        place = resolve(path, agent)
        found: s.FsUpload = self.ask(
            lambda done: self.storage.uploads.begin(owner, place, agent, None, done)
        )
        return found

    def check(self, repair: bool = False) -> s.StorageReport:
        found: s.StorageReport = self.ask(lambda done: self.chores.check(True, repair, done))
        return found

    def backup(self, folder: Path) -> s.BackupReply:
        found: s.BackupReply = self.ask(lambda done: self.chores.backup(folder, done))
        return found


@contextmanager
def rig(folder: Path, **more: Any) -> Iterator[Rig]:
    """A rig that is closed afterwards, its accounts checked."""
    made = Rig(folder, **more)
    try:
        yield made
    finally:
        made.close()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x41]))


def change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "meta.db")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
