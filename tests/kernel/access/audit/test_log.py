"""The audit log in the kernel's thread: replies that wait for a write, and rejected mutations."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aios.kernel.access.audit.file import Space, load_key
from aios.kernel.access.audit.log import AuditLog
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.worker import Worker
from aios.kernel.trap.doors import Peer
from aios.kernel.trap.pending import Caller, Pending
from aios.kernel.trap.trap import Counts, Trap
from aios.syscalls import codec
from aios.syscalls.errors import AuditUnavailable
from aios.syscalls.table import BY_NAME
from aios.syscalls.types.common import Empty
from tests.waiting import turn_until

from .rig import Log, audit_line


class FakeFile:
    """A file with the space or the error that a test sets."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.lost = 0
        self.space = Space(1 << 20, "")
        self.error: OSError | None = None

    def open(self, first_words: str) -> Space:
        return self.append([], 0)

    def append(self, entries: list[tuple[float, bytes]], lost: int) -> Space:
        if self.error:
            raise self.error
        self.names += [json.loads(b"{" + entry)["name"] for _, entry in entries]
        self.lost += lost
        return self.space

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class Bench:
    """A log, its loop and its fake file."""

    def __init__(self) -> None:
        self.loop, self.file = Loop(), FakeFile()
        self.worker = Worker(self.loop, "test")
        self.log = AuditLog(self.loop, self.worker, self.file)  # type: ignore[arg-type]
        self.log.open("test")
        self.replies: list[AuditUnavailable | None] = []

    def mutate(self) -> None:
        self.log.append(audit_line(effect="reversible"))
        self.log.hold(self.replies.append)

    def until(self, count: int) -> None:
        turn_until(self.loop, lambda: len(self.replies) >= count, f"{count} replies")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.log.close()
    made.worker.close()
    made.loop.close()


def test_a_mutation_is_acknowledged_when_it_is_written(bench: Bench) -> None:
    for _ in range(50):
        bench.mutate()
    assert bench.replies == [] and not bench.log.settled
    bench.until(50)
    assert bench.replies == [None] * 50 and len(bench.file.names) == 50
    assert bench.log.settled and bench.log.check() == []
    bench.log.hold(bench.replies.append)
    assert len(bench.replies) == 51, "with nothing due, at once"


def test_reads_do_not_wait_and_keep_their_order(bench: Bench) -> None:
    for number in range(300):
        bench.log.append(audit_line(f"/{number}"))
    assert bench.log.settled
    bench.mutate()
    bench.until(1)
    assert bench.file.names[:300] == [f"/{n}" for n in range(300)]


def test_without_space_mutations_are_rejected_and_reads_counted(bench: Bench) -> None:
    bench.file.space = Space(0, "No space left on device")
    bench.mutate()
    bench.until(1)
    with pytest.raises(AuditUnavailable, match="No space left on device"):
        bench.log.append(audit_line(effect="reversible"))
    bench.log.append(audit_line())
    assert bench.log.check() == ["audit log: No space left on device"]
    bench.file.space = Space(1 << 20, "")
    turn_until(bench.loop, lambda: not bench.log.check(), "the next try of the log")
    bench.mutate()
    bench.until(2)
    assert bench.file.lost == 1 and bench.replies == [None, None]


def test_a_failed_write_fails_the_mutation(bench: Bench) -> None:
    bench.file.error = OSError(errno.EIO, "Input/output error")
    bench.mutate()
    bench.until(1)
    assert isinstance(bench.replies[0], AuditUnavailable)
    with pytest.raises(AuditUnavailable, match="Input/output error"):
        bench.mutate()
    bench.file.error = None
    turn_until(bench.loop, lambda: not bench.log.check(), "the next try of the log")
    bench.mutate()
    bench.until(2)
    assert bench.replies[1] is None and len(bench.file.names) == 2, "the first one, too"


def test_work_for_an_offered_tool_is_handed_on_without_a_log(bench: Bench) -> None:
    sent: list[codec.ReplyFrame] = []
    none: Any = SimpleNamespace(call_ended=lambda asker: None)
    handlers = dict.fromkeys(BY_NAME, none)
    trap = Trap(bench.loop, none, none, bench.log, none, none, handlers, Counts())
    none.send = lambda peer, frame: sent.append(codec.decode_reply(frame))
    peer, caller = Peer("agents", b"a", "3"), Caller("3", 3, 0)
    bench.file.error = OSError(errno.EIO, "Input/output error")
    bench.mutate()
    for number, name in enumerate(("kv.set", "tool.next", "tool.answer")):
        request = codec.CallFrame(BY_NAME[name].number, number, None, {}, 0)
        Pending(trap, peer, caller, BY_NAME[name], request).reply(Empty())
    assert [(reply.call_id, reply.kind) for reply in sent] == [(1, codec.RESULT), (2, codec.RESULT)]
    turn_until(bench.loop, lambda: len(sent) == 3, "the third reply")
    assert (sent[2].call_id, sent[2].kind) == (0, codec.ERROR)


def test_reads_continue_when_the_log_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "audit").touch()
    log = Log(tmp_path)
    loop = Loop()
    worker = Worker(loop, "test")
    audit = AuditLog(loop, worker, log.file())
    audit.open("test")
    audit.append(audit_line())
    with pytest.raises(AuditUnavailable, match="cannot be written"):
        audit.append(audit_line(effect="reversible"))
    (tmp_path / "audit").unlink()
    turn_until(loop, lambda: not audit.check(), "the next try of the log")
    audit.append(audit_line(effect="reversible"))
    audit.close()
    worker.close()
    loop.close()
    assert log.verify().problem == "" and log.verify().n >= 2


def test_a_key_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        load_key(tmp_path / "audit" / "key", create=True)
    assert caught.value.filename == str(tmp_path / "audit" / "key")
    assert list((tmp_path / "audit").iterdir()) == []
