"""Saving images: when an image of a seat is worth making, and where it is written.

An image goes to the arena or to the store's files (a parked sequence, or a cache), or to the file
of a saved context. The store decides what has room; the core carries out the operations.
"""

from __future__ import annotations

from array import array

from aios.hw.core.messages import Op
from aios.hw.engine.engine import EngineInfo
from aios.hw.engine.image import image_bytes
from aios.hw.machine.arena import Extent
from aios.kernel.loop.task import Promise, detach

from .operations import Operations, Result
from .prefix import PrefixIndex
from .seats import Seat
from .sequence import Home, Image, Sequence, new_stamp
from .store import KvStore

_COPY_BYTES_PER_S = 2e9
"""Cautious guess of the speed at which images move, to see when computing again is cheaper."""
_COPY_FIXED_S = 1e-4

Written = tuple[int, int]
"""Tokens of KV that were written to a file (0: none), and the image's stamp."""


class ImageWriter:
    """Plans the images of one model, whose context manager is ``home``."""

    def __init__(
        self,
        store: KvStore,
        info: EngineInfo,
        index: PrefixIndex[Seat | Image],
        operations: Operations,
        home: Home,
    ) -> None:
        self._store, self._info, self._index = store, info, index
        self._operations, self._home = operations, home

    def worth_saving(self, length: int) -> bool:
        """Return True if ``length`` tokens are sooner saved and loaded than computed again."""
        moved_s = _COPY_FIXED_S + 2 * image_bytes(self._info, length) / _COPY_BYTES_PER_S
        return self._info.restorable and length * self._info.prefill_token_s > moved_s

    def save(self, seat: Seat, owner: Sequence | None) -> Image | None:
        """Plan an image of a seat's content, with ``owner`` parked in it or, for None, as a cache.
        Return None when the store has no room."""
        image = Image(seat.tokens[: seat.length], seat.length, self._home, owner,
                      share_limit=seat.share_limit)  # fmt: skip
        if not self._store.add(image, image_bytes(self._info, seat.length), self._spill):
            return None
        place = image.extent or Extent(0, image.size_bytes)
        op = Op("save", seat.number, place.offset, place.size_bytes, seat.length, path=image.path,
                stamp=image.stamp)  # fmt: skip
        self._index.update(image)
        detach(self._saved(image, self._plan(op, image, owner)))
        return image

    async def _saved(self, image: Image, saving: Promise[Result]) -> None:
        result = await saving
        if result and result.ok:
            self._store.written(image, result.size_bytes)
        else:
            self._store.remove(image)
        self._store.unpin(image)

    async def to_file(self, tokens: array[int], path: str) -> Written:
        """Write the KV of the longest known prefix of ``tokens`` to a file; call between slices.

        The image may be of a longer context with another continuation, which is cut off when the
        file is loaded.
        """
        if not self._info.restorable:
            return 0, 0
        holder, shared = self._index.find(tokens, len(tokens), lambda h: isinstance(h, Image))
        if isinstance(holder, Image):
            if not holder.extent:
                return 0, 0
            place = holder.extent
            op = Op("spill", 0, place.offset, holder.size_bytes, shared, path=path)
            result = await self._plan(op, holder)
            self._store.unpin(holder)
            stamp = holder.stamp
        elif holder:
            stamp, size = new_stamp(), image_bytes(self._info, holder.length)
            op = Op("save", holder.number, 0, size, shared, path=path, stamp=stamp)
            result = await self._operations.plan(op, None)
        else:
            return 0, 0
        return (shared if result and result.ok else 0), stamp

    def _spill(self, image: Image, extent: Extent, path: str) -> None:
        """Move a cached image to a file. If another core writes to its place before ours has read
        it, the file lacks its stamp, which is found out when it is loaded."""
        op = Op("spill", 0, extent.offset, image.size_bytes, image.length, path=path)
        detach(self._spilled(image, self._plan(op, image)))

    async def _spilled(self, image: Image, spilling: Promise[Result]) -> None:
        result = await spilling
        self._store.unpin(image)
        if not (result and result.ok):
            self._store.remove(image)

    def _plan(self, op: Op, image: Image, owner: Sequence | None = None) -> Promise[Result]:
        """Plan an operation that uses the image's place; unpin the image when it is over."""
        self._store.pin(image)
        return self._operations.plan(op, owner)
