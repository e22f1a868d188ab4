"""The files of the audit log: verification, and recovery from a full disk, a kill and damage."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aios.kernel.access.audit import file
from aios.kernel.access.audit import file as file_module
from aios.kernel.access.audit.records import read

from .rig import Log, entry_text


@pytest.fixture
def written(tmp_path: Path) -> Log:
    """A log of 21 records: a start and 20 entries."""
    log = Log(tmp_path)
    log.fill(20)
    return log


def test_an_untouched_log_verifies(written: Log) -> None:
    result = written.verify()
    assert (result.problem, result.first, result.n) == ("", 1, 21)
    assert written.key.stat().st_mode & 0o777 == 0o600
    written.fill(5)
    assert written.verify().n == 27, "the next kernel continues the chain"
    assert len(file.files(written.folder)) == 1
    records = [read(line) for line in written.path().read_bytes().splitlines()]
    assert [r.n for r in records] == list(range(1, 28))
    assert [r.action for r in records if r.kind == "audit"] == ["start", "start"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("edited", "record 8 .*edited"),
        ("deleted", "record 8 is not in its place"),
        ("inserted", "record 7 .*comes after record 7"),
        ("forged", "record 8 .*edited or inserted"),
        ("reordered", "record 8 is not in its place"),
        ("cut", "record 19 is missing: the end of the log was cut off .it had 21"),
        ("begun late", "record 1 is not in its place"),
        ("emptied", "record 1 is missing"),
        ("garbled", "record 8 .*not a record"),
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
    """A change of any byte is found at its record; 300 random bytes, seed 3."""
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


def test_the_next_kernel_notices_that_the_log_was_cut(written: Log) -> None:
    data = written.path().read_bytes().splitlines(keepends=True)
    written.path().write_bytes(b"".join(data[:10]))
    written.fill(1)
    first = read(written.path().read_bytes().splitlines()[0])
    assert first.n == 22 and first.outcome.startswith("broken: the log ends with record 10")
    assert "record 11 is not in its place" in written.verify().problem


@pytest.mark.parametrize(
    ("damage", "said", "missing"),
    [
        (lambda path: path.unlink(), "deleted", "record 1 is not"),
        (lambda path: path.rename(path.with_suffix(".old")), "moved", "record 1 is not"),
        (lambda path: os.truncate(path, 0), "cut", "record 1 is not"),
        (lambda path: os.truncate(path, 700), "cut", "is not a record"),
        (lambda path: shutil.rmtree(path.parent), "deleted", "record 1 is not"),
    ],
)
def test_a_log_that_is_damaged_in_use_continues_and_records_it(
    tmp_path: Path, damage: Callable[[Path], None], said: str, missing: str
) -> None:
    """An acknowledged record must be in a file that exists."""
    log = Log(tmp_path)
    file = log.file()
    file.open("test")
    file.append([(1e9, entry_text(f"/{number}")) for number in range(9)], 0)
    damage(log.path())
    file.sync()
    file.append([(1e9, entry_text("/after"))], 0)
    file.sync()
    file.append([(1e9, entry_text("/later"))], 0)
    file.close()
    start, after, later = map(read, log.path().read_bytes().splitlines()[-3:])
    assert f"broken: the file that ended with record 10 has been {said}" in start.outcome
    assert [start.n, after.n, later.n] == [11, 12, 13]
    assert (after.name, later.name) == ("/after", "/later")
    assert missing in log.verify().problem


def test_a_record_torn_by_a_kill_is_cut_off(written: Log) -> None:
    with written.path().open("ab") as file:
        file.write(b'{"n":22,"t":17')
    assert written.verify().problem == "", "the record may be incomplete"
    written.fill(1)
    assert written.verify().problem == "" and written.verify().n == 23


def test_rotation_continues_the_chain_and_deletes_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "FILE_BYTES", 4096)
    log = Log(tmp_path)
    file = log.file(3 * 4096)
    file.open("test")
    for number in range(200):
        file.append([(1e9, entry_text(f"/{number}"))], 0)
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
    assert f"record {int(kept[1].stem)} is not in its place" in log.verify().problem
    kept[0].unlink()
    assert log.verify().problem, "the oldest file of the anchor is missing"


def test_a_batch_is_written_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        file.append([(1e9, entry_text()), (1e9, entry_text())], 0)
    monkeypatch.undo()
    file.append([(1e9, entry_text("/after"))], 4)
    file.close()
    assert log.verify().problem == "" and log.verify().n == 3
    assert b"4 records of reads" in log.path().read_bytes()


def test_space_is_reserved_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk only the reserved space is left, and the records fit in it."""
    log = Log(tmp_path)
    file = log.file()
    space = file.open("test")
    assert space.size_bytes >= file_module.RESERVE_BYTES // 2 and not space.reason
    monkeypatch.setattr(file_module, "_fallocate", lambda fd, at, size: errno.ENOSPC)
    before = space.size_bytes
    while space.size_bytes > 4096:
        space = file.append([(1e9, entry_text("x" * 400))] * 4, 0)
        assert space.size_bytes < before
        before = space.size_bytes
    assert space.reason == os.strerror(errno.ENOSPC)
    file.close()
    assert log.verify().problem == ""
