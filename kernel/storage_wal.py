"""Looks into a write-ahead log before SQLite does, for damage that SQLite takes for its end.

A frame whose checksum is wrong ends the log for SQLite: all commits after it are silently lost.
After a crash that is right for the last commit, which nobody was told of. So: more than one whole
commit behind a bad frame means that acknowledged commits are there and cannot be reached.
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
"""The last bit says in which byte order the checksums are."""


def damage(path: Path) -> str:
    """What is wrong with the log; '' when nothing is, or there is none."""
    try:
        log = path.read_bytes()
    except FileNotFoundError:
        return ""
    if len(log) < _HEADER.size:
        return ""
    magic, _, page, _, salt1, salt2, *found = _HEADER.unpack_from(log)
    size = _FRAME.size + page
    if magic & ~1 != _MAGIC or not 512 <= page <= 65536:
        return "" if not any(log[:32]) else "the header of its write-ahead log is damaged"
    order = ">" if magic & 1 else "<"
    sums = _checksum(log[:24], order, (0, 0))
    if list(sums) != found:
        return "the header of its write-ahead log is damaged"
    bad, lost = 0, 0
    for start in range(_HEADER.size, len(log) - size + 1, size):
        _, commit, own1, own2, *found = _FRAME.unpack_from(log, start)
        if (own1, own2) != (salt1, salt2):
            bad = bad or start  # left from before the log was begun anew, or changed
            continue
        if not bad:
            sums = _checksum(log[start : start + 8], order, sums)
            sums = _checksum(log[start + _FRAME.size : start + size], order, sums)
            bad = start if list(sums) != found else 0
        if bad and commit:
            lost += 1
    if lost > 1:
        return f"its write-ahead log is damaged at byte {bad}: {lost} commits behind are lost"
    return ""


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's own: two running sums over pairs of words."""
    one, two = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
