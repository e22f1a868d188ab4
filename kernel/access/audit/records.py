"""The records of the audit log as bytes: one JSON line each, chained by HMAC.

    {"n":7,"t":…,"pid":3,"agent":"mailer","kind":"tool",…,"mac":"<64 hex digits>"}

The mac of a record is HMAC-SHA256(key, mac of the record before + the line without its mac), so a
line that was edited, taken out, put in or moved breaks the chain at the first such line. Nothing
here opens a file; secrets and bodies have no field to be in.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import msgspec

NO_MAC = b"0" * 64
"""What the first record is chained to."""
MOST_NAME = 512
"""Characters of a name that are kept."""

_TAIL = len(',"mac":""}') + len(NO_MAC)


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision, or an event of the log's own (kind ``audit``). ``rule``: what decided.
    ``behalf``: for whom it was made, as ``name (pid)``.

    When it was is told beside it, so that equal decisions share one entry.
    """

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
    """An entry in its place in the log. ``t``: seconds since 1970."""

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


MOST_HEAD_BYTES = 200
"""What a line has besides an entry's text: number, time and mac."""


def text(entry: Entry) -> bytes:
    """An entry as it stands in its line; made once for decisions that are equal."""
    if len(entry.name) > MOST_NAME:
        entry = msgspec.structs.replace(entry, name=entry.name[:MOST_NAME] + "…")
    return msgspec.json.encode(entry)[1:]


class Chain:
    """Where the log ends: the number and the mac of its last record."""

    def __init__(self, key: bytes, n: int = 0, mac: bytes = NO_MAC) -> None:
        self._key, self.n, self.mac = key, n, mac

    def append(self, unix: float, entry: bytes) -> bytes:
        """The next record's line, from an entry's text."""
        self.n += 1
        body = b'{"n":%d,"t":%.6f,%b' % (self.n, unix, entry)
        self.mac = seal(self._key, self.mac, body)
        return b'%b,"mac":"%b"}\n' % (body[:-1], self.mac)


def seal(key: bytes, before: bytes, body: bytes) -> bytes:
    """The mac of a body that follows the record with the mac ``before``; hexadecimal."""
    return hmac.digest(key, before + body, "sha256").hex().encode()


def split(line: bytes) -> tuple[bytes, bytes]:
    """The body and the mac of a line without its end. Raises ValueError."""
    body, mac = line[:-_TAIL] + b"}", line[-66:-2]
    if len(line) <= _TAIL or line[-_TAIL:-66] != b',"mac":"' or line[-2:] != b'"}':
        raise ValueError("no record")
    return body, mac


_decode = msgspec.json.Decoder(Record).decode


def read(line: bytes) -> Record:
    """The record in a line. Raises ValueError."""
    try:
        return _decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


class Verifier:
    """Walks along a log; ``problem`` names the first record that is not as it was written."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.n, self.mac = 0, NO_MAC
        self.first = 0
        self.problem = ""

    def walk(self, source: str, lines: Iterable[bytes]) -> bool:
        """Check the lines of a file, in order; False from the first bad one on."""
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
            self.problem = f"record {self.n + 1} ({where}) is no record: it was edited or put in"
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
            self.problem = (f"record {self.n + 1} is not where it was ({where} has record "
                            f"{record.n}): taken out or moved")  # fmt: skip
        elif record.n <= self.n:
            self.problem = (f"record {record.n} ({where}) stands after record {self.n}: "
                            "put in or moved")  # fmt: skip
        else:
            self.problem = f"record {record.n} ({where}) is not what was written: edited or put in"
