"""Checks a write-ahead log before SQLite opens it, for damage that SQLite takes for the log's end.

A frame with a wrong checksum ends the log for SQLite: all commits after it are silently lost. After
a crash that is right for the last commit, which was never acknowledged. So more than one whole
commit behind a bad frame means that acknowledged commits cannot be reached.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MASK = 0xFFFFFFFF
_MAGIC = 0x377F0682
"""Its last bit gives the byte order of the checksums."""


def find_damage(path: Path) -> str:
    """Return what is wrong with the log; '' if nothing is, or there is no log."""
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
    words = np.dtype(">u4" if magic & 1 else "<u4")
    header, frame = _Checksum(24, words), _Checksum(8 + page, words)
    sums = header.add((0, 0), log[:24])
    if list(sums) != found:
        return "the header of its write-ahead log is damaged"
    bad, lost = 0, 0
    for start in range(_HEADER.size, len(log) - size + 1, size):
        _, commit, own1, own2, *found = _FRAME.unpack_from(log, start)
        if (own1, own2) != (salt1, salt2):
            bad = bad or start  # left from before the log was reset, or changed
            continue
        if not bad:
            body = log[start : start + 8] + log[start + _FRAME.size : start + size]
            sums = frame.add(sums, body)
            bad = start if list(sums) != found else 0
        if bad and commit:
            lost += 1
    if lost > 1:
        return f"its write-ahead log is damaged at byte {bad}: {lost} commits behind are lost"
    return ""


class _Checksum:
    """SQLite's checksum over a fixed number of bytes: two sums that run over pairs of words.

    ``one += x + two; two += y + one`` for each pair (x, y) is linear, so it is a weighted sum of
    all words; the weights are the powers of that step's matrix, modulo 2**32.
    """

    def __init__(self, size: int, words: np.dtype[np.uint32]) -> None:
        self._words = words
        powers = [(1, 0, 0, 1)]
        for _ in range(size // 8):
            a, b, c, d = powers[-1]
            powers.append(tuple(n & _MASK for n in (a + c, b + d, a + 2 * c, b + 2 * d)))  # type: ignore[arg-type]
        self._whole = powers.pop()
        weights = np.array(powers[::-1], np.uint64).astype(np.uint32).T
        self._of_x = weights[[0, 2]] + weights[[1, 3]]
        self._of_y = weights[[1, 3]]

    def add(self, sums: tuple[int, int], data: bytes) -> tuple[int, int]:
        """Return the sums after these bytes, given the sums before them."""
        values = np.frombuffer(data, self._words).astype(np.uint32)
        x, y = values[::2], values[1::2]
        one, two = ((self._of_x * x).sum(1) + (self._of_y * y).sum(1)).tolist()
        a, b, c, d = self._whole
        return (
            (one + a * sums[0] + b * sums[1]) & _MASK,
            (two + c * sums[0] + d * sums[1]) & _MASK,
        )
