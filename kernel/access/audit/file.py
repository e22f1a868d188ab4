"""The files of the audit log, written and rotated on one thread that may block.

    audit/ID/000000000001.jsonl   records from number 1 on; then the next file
    DATA/audit/key                the key, mode 0600, created once
    DATA/audit/ID.anchor          number and mac of the last record on disk, sealed

Promises three things. Space is reserved from the file system ahead of records (fallocate), so a
record with reserved space can be written on a full disk. A record torn by a kill is cut off at the
next start. The anchor never names a record that is not on disk, so a log that ends before its
anchor has been cut. Before every batch it checks that the file still exists with its full length;
if not, the log continues in a new file with a record of the damage.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from aios.kernel.loop.clock import Clock

from .records import NO_MAC, Chain, Entry, Verifier, read, seal, split, text

log = logging.getLogger("aios.audit")

RESERVE_BYTES = 1 << 20
"""Space to reserve ahead."""
FILE_BYTES = 16 << 20
"""Size of a file that is rotated."""
_KEEP_SIZE = 1
_TAIL_BYTES = 1 << 16
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Space(NamedTuple):
    """Space for the next records; ``reason``: why no more can be reserved, or ''."""

    size_bytes: int
    reason: str


class Anchor(msgspec.Struct, frozen=True):
    """``first``: the oldest record kept; ``n`` and ``mac``: the newest one on disk."""

    first: int
    n: int
    mac: str
    seal: str


class AuditFile:
    """The newest file of the log. Used by one thread."""

    def __init__(
        self, folder: Path, key: Path, anchor: Path, max_bytes: int, clock: Clock | None = None
    ) -> None:
        self._clock = clock or Clock()
        self._folder, self._key_path, self._anchor_path = folder, key, anchor
        self._max_files = max(2, max_bytes // FILE_BYTES)
        self._fd, self._path = -1, folder
        self._size = self._allocated = 0
        self._can_reserve = True
        self._unsynced = False
        self._key = b""
        self._first_words = ""
        self._chain = Chain(b"")

    def open(self, first_words: str) -> Space:
        """Continue the log with a start record. Raises OSError."""
        self._first_words = first_words
        return self.append([], 0)

    def _open(self, damage: str = "") -> None:
        self._key = load_key(self._key_path, create=True)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        damage = self._find_end(damage)
        if damage:
            log.error("the audit log is broken: %s", damage)
        outcome = f"broken: {damage}" if damage else "ok"
        try:
            self._write(self._chain.append(*self._own("start", self._first_words, outcome)))
        except OSError:
            os.close(self._fd)
            self._fd = -1
            raise

    def append(self, entries: Sequence[tuple[float, bytes]], lost: int) -> Space:
        """Write all entries, each with its time, or none, and a record of ``lost`` entries.

        Raises OSError.
        """
        if self._fd < 0:
            self._open()
        elif damage := self._damage():
            os.close(self._fd)
            self._fd = -1
            self._open(damage)
        before = self._chain.n, self._chain.mac
        lines = [self._chain.append(unix, entry) for unix, entry in entries]
        if lost:
            lines.append(self._chain.append(*self._own("gap", f"{lost} records of reads", "lost")))
        try:
            self._write(b"".join(lines))
        except OSError:
            self._chain.n, self._chain.mac = before
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        if self._size >= FILE_BYTES:
            self._rotate()
        return self._reserve()

    def sync(self) -> None:
        """Sync the file, then write the anchor, then delete old files. Raises OSError."""
        if self._fd >= 0 and self._unsynced:
            os.fdatasync(self._fd)
            self._unsynced = False
            kept = files(self._folder)
            if not kept:
                return  # deleted: the next batch starts a new file
            self._write_anchor(kept[-self._max_files :][0])
            for path in kept[: -self._max_files]:
                path.unlink()

    def close(self) -> None:
        """Sync, and release reserved space."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.sync()
                os.ftruncate(self._fd, self._size)
            os.close(self._fd)
            self._fd = -1

    # ------------------------------------------------------------------ writing

    def _damage(self) -> str:
        """Return the damage to the file since the last batch, or ''."""
        held = os.fstat(self._fd)
        if held.st_nlink == 0:
            return f"the file that ended with record {self._chain.n} has been deleted"
        if held.st_size < self._size:
            return f"the file that ended with record {self._chain.n} has been cut"
        try:
            there = os.path.samestat(held, self._path.lstat())
        except FileNotFoundError:
            there = False
        return "" if there else f"the file that ended with record {self._chain.n} has been moved"

    def _write(self, data: bytes) -> None:
        at, left = self._size, memoryview(data)
        self._unsynced = True
        while left:
            count = os.pwrite(self._fd, left, at)
            at, left = at + count, left[count:]
        self._size = at

    def _reserve(self) -> Space:
        if not self._can_reserve:
            return Space(RESERVE_BYTES, "")
        reason = ""
        if self._allocated - self._size < RESERVE_BYTES // 2:
            failed = _fallocate(self._fd, self._size, RESERVE_BYTES)
            if failed in _UNSUPPORTED:  # this file system cannot reserve space
                self._can_reserve = False
                return Space(RESERVE_BYTES, "")
            if failed:
                reason = os.strerror(failed)
            else:
                self._allocated = self._size + RESERVE_BYTES
        return Space(max(0, self._allocated - self._size), reason)

    def _rotate(self) -> None:
        """Continue in a new file, whose first record holds the last mac of the old one. Without
        space for it, continue in the old file."""
        old = self._fd, self._size, self._allocated, self._chain.n, self._chain.mac
        path = self._named(self._chain.n + 1)
        try:
            self.sync()
            self._fd = _open(path, os.O_CREAT | os.O_EXCL)
            self._size = self._allocated = 0
            self._write(self._chain.append(*self._own("rotate", self._chain.mac.decode(), "ok")))
        except OSError:
            if self._fd != old[0]:
                os.close(self._fd)
                path.unlink(missing_ok=True)
            self._fd, self._size, self._allocated, self._chain.n, self._chain.mac = old
            return
        self._path = path
        with contextlib.suppress(OSError):
            os.ftruncate(old[0], old[1])
        os.close(old[0])

    def _write_anchor(self, oldest: Path) -> None:
        anchor = make_anchor(self._key, int(oldest.stem), self._chain.n, self._chain.mac.decode())
        part = self._anchor_path.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(anchor))
        part.replace(self._anchor_path)

    def _named(self, n: int) -> Path:
        return self._folder / f"{n:012}.jsonl"

    # ------------------------------------------------------------------ finding the end

    def _find_end(self, damage: str) -> str:
        """Open the newest file at its end, or a new file if there is damage; return the damage."""
        anchor = None
        try:
            anchor = load_anchor(self._anchor_path, self._key)
        except ValueError as error:
            damage = damage or str(error)
        kept = files(self._folder)
        n, mac = 0, NO_MAC
        if kept:
            self._path = kept[-1]
            self._fd = _open(self._path, 0)
            n, mac, self._size, bad = _last_record(self._fd, self._key)
            damage = damage or bad
        if anchor and n < anchor.n:
            damage = damage or f"the log ends with record {n}, but it had {anchor.n}"
        if damage or not kept:
            if self._fd >= 0:
                os.close(self._fd)
            n = max(n, anchor.n if anchor else 0, self._chain.n)
            self._path = self._named(n + 1)
            self._fd, self._size = _open(self._path, os.O_CREAT), 0
        os.ftruncate(self._fd, self._size)
        self._allocated = self._size
        self._chain = Chain(self._key, n, mac)
        return damage

    def _own(self, action: str, name: str, outcome: str) -> tuple[float, bytes]:
        entry = Entry(0, "kernel", "audit", action, name, "read", outcome, "")
        return self._clock.unix(), text(entry)


def _open(path: Path, flags: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)


def _last_record(fd: int, key: bytes) -> tuple[int, bytes, int, str]:
    """Return number and mac of the last record of a file, its end, and the damage or ''."""
    size = os.fstat(fd).st_size
    start = max(0, size - _TAIL_BYTES)
    data = os.pread(fd, size - start, start)
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.splitlines()
    end = start + len(whole)
    try:
        body, mac = split(lines[-1])
        record = read(body)
        before = split(lines[-2])[1] if len(lines) > 1 else None
    except (ValueError, IndexError):
        return 0, NO_MAC, end, "its last record cannot be read"
    if before and seal(key, before, body) != mac:
        return record.n, mac, end, f"record {record.n} is not what was written"
    return record.n, mac, end, ""


def _fallocate(fd: int, at: int, size: int) -> int:
    """Reserve space beyond the end of a file; return 0 or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return 0 if libc.fallocate(fd, _KEEP_SIZE, at, size) == 0 else ctypes.get_errno()


# ------------------------------------------------------------------------------ for readers as well


def files(folder: Path) -> list[Path]:
    """Return the files of the log, oldest first."""
    return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdecimal())


def load_key(path: Path, *, create: bool = False) -> bytes:
    """Load the key, or create it if it is missing and ``create`` is set. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if not create:
            raise
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secrets.token_bytes(32))
        os.fsync(fd)
    except OSError as error:
        part.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(fd)
    with contextlib.suppress(FileExistsError):
        os.link(part, path)  # if another kernel was faster, use its key
    part.unlink()
    return path.read_bytes()


def make_anchor(key: bytes, first: int, n: int, mac: str) -> Anchor:
    """Make an anchor, sealed with the key."""
    return Anchor(first, n, mac, seal(key, b"anchor", f"{first} {n} {mac}".encode()).decode())


def load_anchor(path: Path, key: bytes) -> Anchor | None:
    """Load the anchor, None if missing. Raises ValueError if it was tampered with."""
    try:
        anchor = msgspec.json.decode(path.read_bytes(), type=Anchor)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        raise ValueError(f"the anchor {path} cannot be read") from None
    if make_anchor(key, anchor.first, anchor.n, anchor.mac) != anchor:
        raise ValueError(f"the anchor {path} is not what was written")
    return anchor


def verify(folder: Path, key: bytes, anchor: Anchor | None) -> Verifier:
    """Verify the whole log. Raises OSError."""
    verifier = Verifier(key)
    kept = files(folder)
    for path in kept:
        data = path.read_bytes()
        if path == kept[-1]:
            data = data[: data.rfind(b"\n") + 1]  # a record may be in the middle of being written
        if not verifier.walk(path.name, data.splitlines(keepends=True)):
            return verifier
    if anchor and (not verifier.first or anchor.first < verifier.first):
        verifier.problem = f"record {anchor.first} is missing: the start of the log was cut off"
    elif anchor and verifier.n < anchor.n:
        verifier.problem = f"record {verifier.n + 1} is missing: the end of the log was cut off " \
                           f"(it had {anchor.n} records)"  # fmt: skip
    return verifier
