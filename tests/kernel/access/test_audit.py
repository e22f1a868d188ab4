"""The audit log: what verifying finds, what a full disk does, what survives a kill."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aios.kernel.access.audit import file
from aios.kernel.access.audit import file as file_module
from aios.kernel.access.audit.file import AuditFile, Room, load_anchor, load_key, verify
from aios.kernel.access.audit.log import AuditLog, Line, line
from aios.kernel.access.audit.records import Entry, Verifier, read, text
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.worker import Worker
from aios.kernel.trap.doors import Peer
from aios.kernel.trap.pending import Caller, Pending
from aios.kernel.trap.trap import Counts, Trap
from aios.syscalls import codec
from aios.syscalls.errors import AuditUnavailable
from aios.syscalls.table import BY_NAME
from aios.syscalls.types.common import Empty


def _entry(name: str = "/a", effect: str = "read") -> Entry:
    return Entry(3, "mailer", "path", "read", name, effect, "allowed", "trust path:/**")


def _text(name: str = "/a") -> bytes:
    return text(_entry(name))


def _line(name: str = "/a", effect: str = "read") -> Line:
    return line(_entry(name, effect), mutates=effect != "read")


class Log:
    """A log in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder / "audit" / "x", folder / "data" / "key"
        self.anchor = folder / "data" / "x.anchor"

    def file(self, most_bytes: int = 1 << 30) -> AuditFile:
        return AuditFile(self.folder, self.key, self.anchor, most_bytes)

    def fill(self, count: int) -> None:
        file = self.file()
        file.open("test")
        for number in range(count):
            file.append([(1e9, _text(f"/{number}"))], 0)
        file.close()

    def verify(self) -> Verifier:
        key = load_key(self.key)
        return verify(self.folder, key, load_anchor(self.anchor, key))

    def path(self) -> Path:
        return file.files(self.folder)[-1]


@pytest.fixture
def written(tmp_path: Path) -> Log:
    """Start, 20 entries: 21 records."""
    log = Log(tmp_path)
    log.fill(20)
    return log


def test_a_log_that_nobody_touched_is_sound(written: Log) -> None:
    result = written.verify()
    assert (result.problem, result.first, result.n) == ("", 1, 21)
    assert written.key.stat().st_mode & 0o777 == 0o600
    written.fill(5)
    assert written.verify().n == 27, "the next kernel goes on in the chain"
    assert len(file.files(written.folder)) == 1
    records = [read(line) for line in written.path().read_bytes().splitlines()]
    assert [r.n for r in records] == list(range(1, 28))
    assert [r.action for r in records if r.kind == "audit"] == ["start", "start"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("edited", "record 8 .*edited"),
        ("deleted", "record 8 is not where it was"),
        ("inserted", "record 7 .*stands after record 7"),
        ("forged", "record 8 .*edited or put in"),
        ("reordered", "record 8 is not where it was"),
        ("cut", "record 19 is missing: the log's end was cut off .it had 21"),
        ("begun late", "record 1 is not where it was"),
        ("emptied", "record 1 is missing"),
        ("garbled", "record 8 .*no record"),
    ],
)
def test_the_first_bad_record_is_named(written: Log, how: str, message: str) -> None:
    path = written.path()
    lines = path.read_bytes().splitlines(keepends=True)
    match how:
        case "edited":
            lines[7] = lines[7].replace(b'"allowed"', b'"denied" ')
        case "deleted":
            del lines[7]
        case "inserted":
            lines.insert(7, lines[6])
        case "forged":
            lines[7] = lines[7].replace(b"/6", b"/7")
        case "reordered":
            lines[7], lines[8] = lines[8], lines[7]
        case "cut":
            del lines[18:]
        case "begun late":
            del lines[:5]
        case "emptied":
            lines = []
        case "garbled":
            lines[7] = b"\xff{}\n"
    path.write_bytes(b"".join(lines))
    assert re.search(message, written.verify().problem), written.verify().problem


def test_any_changed_byte_is_found(written: Log) -> None:
    """Every byte of the log that is changed is found, at its record. 300 of them, seed 3."""
    rng = random.Random(3)
    path = written.path()
    data = path.read_bytes()
    for _ in range(300):
        at = rng.randrange(len(data) - 1)
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(7)
        path.write_bytes(changed)
        problem = written.verify().problem
        line = data[:at].count(b"\n") + 1
        assert f"record {line} " in problem or f"line {line}" in problem, (at, problem)


def test_a_forged_anchor_and_a_removed_log_are_found(written: Log) -> None:
    good = written.anchor.read_bytes()
    written.anchor.write_bytes(good.replace(b'"n":21', b'"n":12'))
    with pytest.raises(ValueError, match="not what was written"):
        written.verify()
    written.anchor.write_bytes(good)
    written.path().unlink()
    assert "record 1 is missing" in written.verify().problem


def test_the_next_kernel_sees_that_the_log_was_cut(written: Log) -> None:
    data = written.path().read_bytes().splitlines(keepends=True)
    written.path().write_bytes(b"".join(data[:10]))
    written.fill(1)
    first = read(written.path().read_bytes().splitlines()[0])
    assert first.n == 22 and first.outcome.startswith("broken: the log ends with record 10")
    assert "record 11 is not where it was" in written.verify().problem


@pytest.mark.parametrize(
    ("harm", "said", "missing"),
    [
        (lambda path: path.unlink(), "deleted", "record 1 is not"),
        (lambda path: path.rename(path.with_suffix(".old")), "moved", "record 1 is not"),
        (lambda path: os.truncate(path, 0), "cut", "record 1 is not"),
        (lambda path: os.truncate(path, 700), "cut", "is no record"),
        (lambda path: shutil.rmtree(path.parent), "deleted", "record 1 is not"),
    ],
)
def test_a_log_that_is_harmed_while_it_is_written_goes_on_and_says_so(
    tmp_path: Path, harm: Callable[[Path], None], said: str, missing: str
) -> None:
    """What is acknowledged must be in a file that is there."""
    log = Log(tmp_path)
    file = log.file()
    file.open("test")
    file.append([(1e9, _text(f"/{number}")) for number in range(9)], 0)
    harm(log.path())
    file.sync()
    file.append([(1e9, _text("/after"))], 0)
    file.sync()
    file.append([(1e9, _text("/later"))], 0)
    file.close()
    start, after, later = map(read, log.path().read_bytes().splitlines()[-3:])
    assert f"broken: the file that ended with record 10 has been {said}" in start.outcome
    assert [start.n, after.n, later.n] == [11, 12, 13]
    assert (after.name, later.name) == ("/after", "/later")
    assert missing in log.verify().problem


def test_a_record_torn_by_a_kill_is_cut_off(written: Log) -> None:
    with written.path().open("ab") as file:
        file.write(b'{"n":22,"t":17')
    assert written.verify().problem == "", "it may be being written"
    written.fill(1)
    assert written.verify().problem == "" and written.verify().n == 23


def test_rotation_carries_the_chain_and_old_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "FILE_BYTES", 4096)
    log = Log(tmp_path)
    file = log.file(3 * 4096)
    file.open("test")
    for number in range(200):
        file.append([(1e9, _text(f"/{number}"))], 0)
    file.close()
    kept = file_module.files(log.folder)
    assert len(kept) == 3 and int(kept[0].stem) > 1
    result = log.verify()
    assert result.problem == "" and result.first == int(kept[0].stem) and result.n > 200
    again = log.file(3 * 4096)
    again.open("test")
    again.close()
    assert log.verify().problem == ""
    kept[1].unlink()
    assert f"record {int(kept[1].stem)} is not where it was" in log.verify().problem
    kept[0].unlink()
    assert log.verify().problem, "the oldest file that should be there is missing"


def test_half_a_batch_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path)
    file = log.file()
    file.open("test")
    pwrite, calls = os.pwrite, []

    def full_soon(fd: int, data: bytes, at: int) -> int:
        calls.append(at)
        if len(calls) % 2 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, bytes(data)[:100], at)

    monkeypatch.setattr(os, "pwrite", full_soon)
    with pytest.raises(OSError, match="No space"):
        file.append([(1e9, _text()), (1e9, _text())], 0)
    monkeypatch.undo()
    file.append([(1e9, _text("/after"))], 4)
    file.close()
    assert log.verify().problem == "" and log.verify().n == 3
    assert b"4 records of reads" in log.path().read_bytes()


def test_room_is_taken_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the promised room is all there is, and it is enough for what is written."""
    log = Log(tmp_path)
    file = log.file()
    room = file.open("test")
    assert room.size_bytes >= file_module.RESERVE_BYTES // 2 and not room.reason
    monkeypatch.setattr(file_module, "_fallocate", lambda fd, at, size: errno.ENOSPC)
    before = room.size_bytes
    while room.size_bytes > 4096:
        room = file.append([(1e9, _text("x" * 400))] * 4, 0)
        assert room.size_bytes < before
        before = room.size_bytes
    assert room.reason == os.strerror(errno.ENOSPC)
    file.close()
    assert log.verify().problem == ""


# ---------------------------------------------------------------------------- the kernel's side


class FakeFile:
    """A file that has room, or none, or breaks, as a test says."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.lost = 0
        self.room = Room(1 << 20, "")
        self.error: OSError | None = None

    def open(self, first_words: str) -> Room:
        return self.append([], 0)

    def append(self, entries: list[tuple[float, bytes]], lost: int) -> Room:
        if self.error:
            raise self.error
        self.names += [json.loads(b"{" + entry)["name"] for _, entry in entries]
        self.lost += lost
        return self.room

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
        self.log.append(_line(effect="reversible"))
        self.log.hold(self.replies.append)

    def until(self, count: int) -> None:
        while len(self.replies) < count:
            self.loop.turn(5000)


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


def test_reads_wait_for_nobody_and_come_in_order(bench: Bench) -> None:
    for number in range(300):
        bench.log.append(_line(f"/{number}"))
    assert bench.log.settled
    bench.mutate()
    bench.until(1)
    assert bench.file.names[:300] == [f"/{n}" for n in range(300)]


def test_without_room_mutations_are_refused_and_reads_counted(bench: Bench) -> None:
    bench.file.room = Room(0, "No space left on device")
    bench.mutate()
    bench.until(1)
    with pytest.raises(AuditUnavailable, match="No space left on device"):
        bench.log.append(_line(effect="reversible"))
    bench.log.append(_line())
    assert bench.log.check() == ["audit log: No space left on device"]
    bench.file.room = Room(1 << 20, "")
    while bench.log.check():
        bench.loop.turn(5000)  # it tries again by itself
    bench.mutate()
    bench.until(2)
    assert bench.file.lost == 1 and bench.replies == [None, None]


def test_what_could_not_be_written_is_no_success(bench: Bench) -> None:
    bench.file.error = OSError(errno.EIO, "Input/output error")
    bench.mutate()
    bench.until(1)
    assert isinstance(bench.replies[0], AuditUnavailable)
    with pytest.raises(AuditUnavailable, match="Input/output error"):
        bench.mutate()
    bench.file.error = None
    while bench.log.check():
        bench.loop.turn(5000)
    bench.mutate()
    bench.until(2)
    assert bench.replies[1] is None and len(bench.file.names) == 2, "the first one, too"


def test_work_for_an_offered_tool_is_handed_on_whatever_the_log_does(bench: Bench) -> None:
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
    while len(sent) < 3:
        bench.loop.turn(5000)
    assert (sent[2].call_id, sent[2].kind) == (0, codec.ERROR)


def test_a_log_that_cannot_be_opened_lets_reads_go_on(tmp_path: Path) -> None:
    (tmp_path / "audit").touch()
    log = Log(tmp_path)
    loop = Loop()
    worker = Worker(loop, "test")
    audit = AuditLog(loop, worker, log.file())
    audit.open("test")
    audit.append(_line())
    with pytest.raises(AuditUnavailable, match="cannot be written"):
        audit.append(_line(effect="reversible"))
    (tmp_path / "audit").unlink()
    while audit.check():
        loop.turn(5000)
    audit.append(_line(effect="reversible"))
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
