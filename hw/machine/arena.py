"""The arena: anonymous shared memory that holds the images of parked seats.

The kernel creates it (a memfd), keeps its accounts and passes the descriptor to each core it
starts, so images outlive the core that wrote them. It has no name in a file system, so nothing is
left behind.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PAGE_BYTES = 4096


class Extent(NamedTuple):
    """A place in the arena; both numbers are multiples of the page size."""

    offset: int
    size_bytes: int


class SharedMemory:
    """A mapping of the arena. ``view`` is uint8, shape (size_bytes,)."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._map = mmap.mmap(fd, size_bytes)
        self.view: npt.NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)

    def at(self, offset: int, size_bytes: int) -> memoryview:
        """Return the writable bytes of a place. Raises ValueError outside the arena."""
        if not 0 <= offset <= offset + size_bytes <= len(self.view):
            raise ValueError(
                f"[{offset}, +{size_bytes}) lies outside an arena of {len(self.view)} bytes"
            )
        return self.view.data[offset : offset + size_bytes]

    def discard(self) -> None:
        """Return all pages to the system; the content is zero afterwards."""
        self._map.madvise(mmap.MADV_REMOVE)


class Arena(SharedMemory):
    """The kernel's side: first-fit allocation of extents; free neighbours are merged.

    The system provides a page when it is first written; the page stays until ``trim``.
    """

    def __init__(self, size_bytes: int, fd: int | None = None) -> None:
        """``fd``: an empty memfd that becomes the arena's own; None: make one."""
        self.size_bytes = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        self.fd = os.memfd_create("aios-kv", os.MFD_CLOEXEC) if fd is None else fd
        try:
            os.ftruncate(self.fd, self.size_bytes)
            super().__init__(self.fd, self.size_bytes)
        except BaseException:
            os.close(self.fd)
            raise
        self._free: list[Extent] = [Extent(0, self.size_bytes)]
        self._used: dict[int, int] = {}
        self.used_bytes = 0
        self._warm = False

    def allocate(self, size_bytes: int) -> Extent | None:
        """Allocate a place of at least this size; None if no free one is large enough."""
        wanted = max(PAGE_BYTES, -(-size_bytes // PAGE_BYTES) * PAGE_BYTES)
        index = next((i for i, h in enumerate(self._free) if h.size_bytes >= wanted), None)
        if index is None:
            return None
        hole = self._free[index]
        if hole.size_bytes == wanted:
            del self._free[index]
        else:
            self._free[index] = Extent(hole.offset + wanted, hole.size_bytes - wanted)
        self._used[hole.offset] = wanted
        self.used_bytes += wanted
        self._warm = True
        return Extent(hole.offset, wanted)

    def free(self, extent: Extent) -> None:
        """Free a place. Raises KeyError if it is not allocated (a bug of the caller's)."""
        if self._used.get(extent.offset) != extent.size_bytes:
            raise KeyError(f"{extent} is not allocated")
        del self._used[extent.offset]
        self.used_bytes -= extent.size_bytes
        index = bisect_left(self._free, extent)
        start, end = extent.offset, extent.offset + extent.size_bytes
        if index < len(self._free) and self._free[index].offset == end:
            end += self._free.pop(index).size_bytes
        if index and sum(self._free[index - 1]) == start:
            index -= 1
            start = self._free.pop(index).offset
        self._free.insert(index, Extent(start, end - start))

    def trim(self) -> None:
        """Return all memory to the system if no place is in use; cheap if there is none."""
        if self._warm and not self._used:
            self.discard()
            self._warm = False

    def check(self) -> list[str]:
        """Return the errors in the accounts; empty if there are none."""
        problems, at = [], 0
        for offset, size in sorted([*self._used.items(), *self._free]):
            if offset != at:
                problems.append(f"arena: place at {offset} where {at} was expected")
            at = offset + size
        if at != self.size_bytes:
            problems.append(f"arena: places cover {at} of {self.size_bytes} bytes")
        if self.used_bytes != sum(self._used.values()):
            problems.append(f"arena: {self.used_bytes} bytes counted as used")
        for left, right in zip(self._free, self._free[1:], strict=False):
            if sum(left) == right.offset:
                problems.append(f"arena: free neighbours at {right.offset} were not merged")
        return problems

    def close(self) -> None:
        """Close the descriptor; the memory is freed when the last core that maps it ends."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
