"""Every storage call asks the access manager first, with the right action, name and effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios.kernel.access.manager import AccessManager
from aios.kernel.loop.task import Outcome
from aios.kernel.process.table import ProcessTable
from aios.kernel.storage.calls import StorageCalls
from aios.kernel.trap.asker import Asker
from aios.syscalls.errors import AiosError, DeadlineExceeded, PermissionDenied, StorageUnavailable
from aios.syscalls.table import BY_NAME
from aios.syscalls.types import storage as s
from aios.syscalls.types.common import Effect

from .rig import Rig, rig

NO = "the policy says no"


class _Access(AccessManager):
    """Records each question, and denies while ``closed``."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, str]] = []
        self.closed = True

    def check(
        self,
        asker: Asker,
        kind: str,
        action: str,
        name: str,
        effect: Effect | None = "read",
        *,
        arguments: Any = None,
    ) -> None:
        assert effect
        self.asked.append((kind, action, name, effect))
        if self.closed:
            raise PermissionDenied(NO)

    def readable(self, asker: Asker) -> Callable[[str], bool]:
        return lambda path: "secret" not in path


class _Call:
    """A call of an agent, as the trap would pass it on."""

    def __init__(self, name: str, pid: int) -> None:
        self.call = BY_NAME[name]
        self.caller = type("Caller", (), {"pid": pid, "user": str(pid)})()
        self.asker = Asker(pid)
        self.ended = False
        self.timeout_s = 60.0


class _Bench:
    """The handlers on a rig, and an agent ``bob`` with a mount."""

    def __init__(self, store: Rig, folder: Path) -> None:
        table = ProcessTable(10)
        self.store = store
        self.pid = table.create(parent=0, stem="bob", command="b", spec=None, guest=True).pid
        self.access = _Access()
        self.calls = StorageCalls(
            table, self.access, store.storage, folder, store.loop.clock
        )  # fmt: skip

    def make(self, name: str, body: msgspec.Struct) -> Any:
        call: Any = _Call(name, self.pid)
        handler: Any = self.calls.handlers[name]
        return self.store.ask(handler(call, body))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[_Bench]:
    (tmp_path / "host").mkdir()
    with rig(tmp_path / "s") as store:
        store.mount("bob", "h", tmp_path / "host", writable=True)
        store.write("bob", "a", b"1")
        yield _Bench(store, tmp_path / "run")


ASKED: list[tuple[str, msgspec.Struct, list[tuple[str, str, str]]]] = [
    ("fs.write", s.FsWrite("a", b""), [("write", "/a", "reversible")]),
    ("fs.write", s.FsWrite("/mnt/h/a", b""), [("write", "/mnt/h/a", "irreversible")]),
    ("fs.write", s.FsWrite("/mnt/h/a", b"", True), [("write", "/mnt/h/a", "reversible")]),
    ("fs.read", s.FsRead("./d//a"), [("read", "/d/a", "read")]),
    ("fs.list", s.FsList("/"), [("read", "/", "read")]),
    ("fs.stat", s.FsPath("/shared/eve"), [("read", "/shared/eve", "read")]),
    ("fs.move", s.FsMove("a", "b"), [("delete", "/a", "reversible")]),
    ("fs.delete", s.FsDelete("a"), [("delete", "/a", "reversible")]),
    ("fs.delete", s.FsDelete("mnt/h/a"), [("delete", "/mnt/h/a", "irreversible")]),
    ("fs.mkdir", s.FsPath("d"), [("write", "/d", "reversible")]),
    ("fs.history", s.FsPath("a"), [("read", "/a", "read")]),
    ("fs.rollback", s.FsRollback("a", 1), [("write", "/a", "reversible")]),
    ("fs.prune", s.FsPrune("a"), [("delete", "/a", "irreversible")]),
    ("fs.begin", s.FsBegin("a"), [("write", "/a", "reversible")]),
    ("fs.share", s.FsShare("a", "eve"), [("share", "/a", "reversible")]),
    ("fs.search", s.FsSearch("x", "a"), [("read", "/a", "read")]),
    ("fs.search", s.FsSearch("x", "/mnt/h"), [("read", "/mnt/h", "read")]),
    ("kv.get", s.KvKey("k"), [("read", "/.kv/k", "read")]),
    ("kv.set", s.KvSet("k", 1), [("write", "/.kv/k", "reversible")]),
    ("kv.delete", s.KvDelete("k"), [("delete", "/.kv/k", "irreversible")]),
    ("kv.list", s.KvList(), [("read", "/.kv/", "read")]),
]


@pytest.mark.parametrize(("name", "body", "asked"), ASKED, ids=lambda value: str(value)[:40])
def test_nothing_is_done_before_access_allows_it(
    bench: _Bench, name: str, body: msgspec.Struct, asked: list[tuple[str, str, str]]
) -> None:
    before = bench.store.usage("bob")
    with pytest.raises(PermissionDenied, match=NO):
        bench.make(name, body)
    assert bench.access.asked == [("path", *each) for each in asked]
    assert bench.store.usage("bob") == before and bench.store.names("bob") == ["/a"]


def test_a_move_asks_for_both_ends(bench: _Bench) -> None:
    bench.access.closed = False
    assert bench.make("fs.move", s.FsMove("a", "d/b")).path == "/d/b"
    assert [each[1:3] for each in bench.access.asked] == [("delete", "/a"), ("write", "/d/b")]


def test_each_file_that_a_search_shows_may_be_read_and_is_recorded(
    bench: _Bench, tmp_path: Path
) -> None:
    bench.access.closed = False
    for name in ("a", "secret"):
        (tmp_path / "host" / name).write_text("kiwi " * 1000)
        bench.store.write("bob", f"d/{name}", b"kiwi")
    found = bench.make("fs.search", s.FsSearch("kiwi"))
    shown = {"/d/a", "/mnt/h/a"}
    assert {hit.path for hit in found.hits} == shown and len(found.hits) > 2
    assert bench.access.asked[0][2] == "/"
    assert sorted(asked[2] for asked in bench.access.asked[1:]) == sorted(shown)
    for path in ("/shared", "/mnt/none"):
        with pytest.raises(AiosError):
            bench.make("fs.search", s.FsSearch("kiwi", path))


def test_folders_without_an_owner_cannot_be_written(bench: _Bench) -> None:
    bench.access.closed = False
    for path in ("/shared", "/mnt", "/shared/eve", "/mnt/none/x"):
        with pytest.raises(AiosError):
            bench.make("fs.write", s.FsWrite(path, b""))
    with pytest.raises(AiosError, match="keeps no versions"):
        bench.make("fs.history", s.FsPath("/mnt/h/a"))
    bench.make("fs.write", s.FsWrite("/mnt/h/big", b"x" * 100_000))
    upload = bench.make("fs.begin", s.FsBegin("/mnt/h/parts"))
    for _ in range(3):
        bench.make("fs.part", s.FsPart(upload.upload, b"y" * 800_000))
    assert bench.make("fs.end", s.FsEnd(upload.upload)).size_bytes == 2_400_000
    assert bench.make("fs.read", s.FsRead("/mnt/h/parts", 2_399_999)).data == b"y"


def test_a_call_that_ends_before_storage_is_open_is_not_done(bench: _Bench) -> None:
    bench.access.closed = False
    storage = bench.store.storage
    storage._opening = True
    call: Any = _Call("fs.write", bench.pid)
    handler: Any = bench.calls.handlers["fs.write"]
    outcomes = bench.store.begin(handler(call, s.FsWrite("late", b"")))
    assert not outcomes
    call.ended = True
    storage._opened(Outcome(None, StorageUnavailable("opened late")))
    assert isinstance(outcomes[0].error, DeadlineExceeded)
    assert bench.store.names("bob") == ["/a"]
