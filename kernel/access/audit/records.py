"""The records of the audit log as bytes: one JSON line each, chained by HMAC.

    {"n":7,"t":…,"pid":3,"agent":"mailer","kind":"tool",…,"mac":"<64 hex digits>"}

The mac of a record is HMAC-SHA256(key, mac of the previous record + the line without its mac). A
line that is edited, removed, inserted or moved breaks the chain there. Nothing here opens a file.
No field holds secrets or message bodies.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import msgspec

NO_MAC = b"0" * 64
"""The mac before the first record."""
MAX_NAME = 512
"""Characters of a name that are kept."""

_TAIL = len(',"mac":""}') + len(NO_MAC)


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision, or an event of the log itself (kind ``audit``), without its time, so that
    equal decisions share an entry. ``rule``: the deciding rule; ``behalf``: for whom the process
    acts, as ``name (pid)``."""

    pid: int
    agent: str
    kind: str
    action: str
    name: str
    effect: str
    outcome: str
    rule: str
    behalf: str = ""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry at position ``n`` of the log; ``t``: seconds since 1970."""

    n: int
    t: float
    pid: int
    agent: str
    kind: str
    action: str
    name: str
    effect: str
    outcome: str
    rule: str
    behalf: str = ""


MAX_HEAD_BYTES = 200
"""Limit on the rest of a line: number, time and mac."""


def text(entry: Entry) -> bytes:
    """Encode an entry as the middle part of its line."""
    if len(entry.name) > MAX_NAME:
        entry = msgspec.structs.replace(entry, name=entry.name[:MAX_NAME] + "…")
    return msgspec.json.encode(entry)[1:]


class Chain:
    """The end of the log: number and mac of the last record."""

    def __init__(self, key: bytes, n: int = 0, mac: bytes = NO_MAC) -> None:
        self._key, self.n, self.mac = key, n, mac

    def append(self, unix: float, entry: bytes) -> bytes:
        """Return the line of the next record, from an encoded entry."""
        self.n += 1
        body = b'{"n":%d,"t":%.6f,%b' % (self.n, unix, entry)
        self.mac = seal(self._key, self.mac, body)
        return b'%b,"mac":"%b"}\n' % (body[:-1], self.mac)


def seal(key: bytes, before: bytes, body: bytes) -> bytes:
    """Return the mac, in hex, of a body after the record with mac ``before``."""
    return hmac.digest(key, before + body, "sha256").hex().encode()


def split(line: bytes) -> tuple[bytes, bytes]:
    """Split a line without its newline into body and mac. Raises ValueError."""
    body, mac = line[:-_TAIL] + b"}", line[-66:-2]
    if len(line) <= _TAIL or line[-_TAIL:-66] != b',"mac":"' or line[-2:] != b'"}':
        raise ValueError("not a record")
    return body, mac


_decode = msgspec.json.Decoder(Record).decode


def read(line: bytes) -> Record:
    """Decode a record. Raises ValueError."""
    try:
        return _decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


class Verifier:
    """Verifies a log; ``problem`` names the first record that differs from what was written."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.n, self.mac = 0, NO_MAC
        self.first = 0
        self.problem = ""

    def walk(self, source: str, lines: Iterable[bytes]) -> bool:
        """Verify the lines of the next file; return False after the first problem."""
        for number, line in enumerate(lines, 1):
            if self.problem:
                break
            self._step(f"{source}, line {number}", line)
        return not self.problem

    def _step(self, where: str, line: bytes) -> None:
        try:
            body, mac = split(line.rstrip(b"\n"))
            record = read(body)
        except ValueError:
            self.problem = f"record {self.n + 1} ({where}) is not a record: edited or inserted"
            return
        before = self.mac
        if not self.first:
            self.first = record.n
            if record.n > 1 and record.kind == "audit" and record.action == "rotate":
                before, self.n = record.name.encode(), record.n - 1  # older files were removed
        sound = hmac.compare_digest(seal(self._key, before, body), mac)
        if sound and record.n == self.n + 1:
            self.n, self.mac = record.n, mac
        elif record.n > self.n + 1:
            self.problem = (f"record {self.n + 1} is not in its place ({where} has record "
                            f"{record.n}): removed or moved")  # fmt: skip
        elif record.n <= self.n:
            self.problem = (f"record {record.n} ({where}) comes after record {self.n}: "
                            "inserted or moved")  # fmt: skip
        else:
            self.problem = (
                f"record {record.n} ({where}) is not what was written: edited or inserted"
            )
