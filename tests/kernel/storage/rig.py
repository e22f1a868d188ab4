"""Storage without a kernel around it: a loop, and operations that are waited for."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, Promise, Task, start
from aios.kernel.storage.chores import Chores
from aios.kernel.storage.files.paths import resolve
from aios.kernel.storage.files.quota import Limits
from aios.kernel.storage.manager import Storage
from aios.syscalls.types import storage as s
from tests.waiting import turn_until

T = TypeVar("T")

BIG = random.Random(1).randbytes(3_000_000)


class Rig:
    """Operations of agents by name; each is waited for and raises what the call would."""

    def __init__(self, folder: Path, url: str = "", quota: int = 1 << 30, keep: int = 16) -> None:
        self.loop = Loop()
        self.storage = Storage(self.loop, folder, url, Limits(quota, keep))
        self.files = self.storage.files
        self.chores = Chores(self.storage)
        self.storage.open()
        self.ask(self.storage.opened())

    def begin(self, operation: Task[T] | Promise[T]) -> list[Outcome[T]]:
        """Start an operation; its outcome appears in the list."""
        outcomes: list[Outcome[T]] = []
        promise = operation if isinstance(operation, Promise) else start(operation)
        promise.then(outcomes.append)
        return outcomes

    def ask(self, operation: Task[T] | Promise[T]) -> T:
        """Start an operation and turn the loop until it has ended."""
        outcomes = self.begin(operation)
        return turn_until(self.loop, lambda: outcomes, "an outcome of storage")[0].result()

    def close(self) -> None:
        """Close as the kernel does at its end."""
        self.storage.close()
        self.loop.close()

    def write(self, agent: str, path: str, data: bytes, **more: Any) -> s.FileInfo:
        body = s.FsWrite(path, data, **more)
        return self.ask(self.files.write(resolve(path, agent), agent, body))

    def read(self, agent: str, path: str, **more: Any) -> bytes:
        body = s.FsRead(path, **more)
        return self.ask(self.files.read(resolve(path, agent), agent, body)).data

    def names(self, agent: str, path: str = "/") -> list[str]:
        found = self.ask(self.files.entries(resolve(path, agent), agent, "", 1000))
        return [entry.path for entry in found.entries]

    def stat(self, agent: str, path: str) -> s.FileInfo:
        return self.ask(self.files.stat(resolve(path, agent), agent))

    def mkdir(self, agent: str, path: str) -> None:
        self.ask(self.files.mkdir(resolve(path, agent), agent))

    def move(self, agent: str, source: str, target: str) -> None:
        self.ask(self.files.move(resolve(source, agent), resolve(target, agent), agent))

    def delete(self, agent: str, path: str, recursive: bool = False) -> None:
        self.ask(self.files.delete(resolve(path, agent), agent, recursive))

    def history(self, agent: str, path: str) -> list[s.VersionInfo]:
        return self.ask(self.files.history(resolve(path, agent), agent)).versions

    def rollback(self, agent: str, path: str, version: int) -> s.FileInfo:
        return self.ask(self.files.rollback(resolve(path, agent), agent, version))

    def prune(self, agent: str, path: str = "/", keep: int = 1) -> s.FsPruned:
        return self.ask(self.files.prune(resolve(path, agent), agent, keep))

    def share(self, owner: str, path: str, with_: str, rights: s.Rights | None = "read") -> None:
        self.ask(self.storage.share(resolve(path, owner), with_, rights))

    def mount(self, agent: str, name: str, folder: Path | None, writable: bool = False) -> None:
        body = s.MountRequest(agent, name, str(folder) if folder else None, writable)
        self.ask(self.storage.mount(body))

    def usage(self, owner: str) -> s.FsUsage:
        return self.ask(self.storage.usage(owner))

    def search(
        self, agent: str, query: str, path: str = "/", *, within_s: float = 60.0,
        may: Callable[[str], bool] = lambda path: True, **more: Any,
    ) -> s.FsFound:  # fmt: skip
        body, until_s = s.FsSearch(query, path, **more), self.loop.now() + within_s
        return self.ask(self.storage.search(resolve(path, agent), agent, body, may, until_s))

    def set_value(self, agent: str, key: str, value: bytes, expect: int | None = None) -> s.KvEntry:
        return self.ask(self.storage.set_value(agent, key, value, expect))

    def value(self, agent: str, key: str) -> s.KvEntry:
        return self.ask(self.storage.get_value(agent, key))

    def begin_upload(self, agent: str, path: str, owner: str) -> int:
        place = resolve(path, agent)
        return self.ask(self.storage.uploads.begin(owner, place, agent, None))

    def check(self, repair: bool = False) -> s.StorageReport:
        return self.ask(self.chores.check(True, repair))

    def backup(self, folder: Path) -> s.BackupReply:
        return self.ask(self.chores.backup(folder))


@contextmanager
def rig(folder: Path, **more: Any) -> Iterator[Rig]:
    """A rig that is closed afterwards."""
    made = Rig(folder, **more)
    try:
        yield made
    finally:
        made.close()


def flip(path: Path, offset: int) -> None:
    """Change a byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x41]))


def change(folder: Path, *statements: str) -> None:
    """Change the database behind storage's back."""
    with closing(sqlite3.connect(folder / "meta.db")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
