"""Images of seats: when one is worth making, and the operations that make, move and file it.

What a seat holds is saved as an image in the store (a request is parked in it, or it is kept as a
cache), or in a file for a saved context. The store decides what has room, the core carries it out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from aios.hw.core.messages import Op, OpResult
from aios.hw.engine.engine import EngineInfo
from aios.hw.engine.image import image_bytes
from aios.hw.machine.arena import Extent

from .operations import Operations
from .prefix import PrefixIndex
from .sequence import Home, Image, Seat, Sequence, new_stamp
from .store import KvStore

_COPY_BYTES_PER_S = 2e9
"""A cautious guess of how fast images move, to see when computing again is cheaper."""
_COPY_FIXED_S = 1e-4

Written = Callable[[int, int], None]
"""How many tokens of KV were written to a file (0: none), and the image's stamp."""


class Imaging:
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
        """Whether so many tokens are sooner saved and loaded than computed again."""
        moved_s = _COPY_FIXED_S + 2 * image_bytes(self._info, length) / _COPY_BYTES_PER_S
        return self._info.restorable and length * self._info.prefill_token_s > moved_s

    def save(self, seat: Seat, owner: Sequence | None) -> Image | None:
        """Plan an image of what is in the seat, with ``owner`` parked in it or, for None, as a
        cache. None when the store has no room."""
        image = Image(seat.tokens[: seat.length], seat.length, self._home, owner)
        if not self._store.add(image, image_bytes(self._info, seat.length), self._spill):
            return None
        place = image.extent or Extent(0, image.size_bytes)
        op = Op("save", seat.number, place.offset, place.size_bytes, seat.length, path=image.path,
                stamp=image.stamp)  # fmt: skip
        self._store.pin(image)

        def settle(result: OpResult | None) -> None:
            if result and result.ok:
                self._store.written(image, result.size_bytes)
            else:
                self._store.remove(image)
            self._store.unpin(image)

        self._index.update(image)
        self._operations.plan(op, owner, settle)
        return image

    def to_file(self, tokens: array[int], path: str, done: Written) -> bool:
        """Plan to write KV of the longest known beginning of ``tokens`` to a file. Call it between
        slices. False when there is nothing.

        The image may be of a longer context that goes on differently; the rest is cut off when the
        file is loaded.
        """
        if not self._info.restorable:
            return False
        holder, shared = self._index.find(tokens, len(tokens), lambda h: isinstance(h, Image))
        if isinstance(holder, Image):
            return self._file_image(holder, shared, path, done)
        if holder is None:
            return False
        stamp = new_stamp()
        size = image_bytes(self._info, holder.length)
        op = Op("save", holder.number, size_bytes=size, tokens=shared, path=path, stamp=stamp)
        self._operations.plan(
            op, None, lambda result: done(shared if result and result.ok else 0, stamp)
        )
        return True

    def _file_image(self, image: Image, shared: int, path: str, done: Written) -> bool:
        if not image.extent:
            return False
        place, size = image.extent, image.size_bytes
        self._store.pin(image)

        def settle(result: OpResult | None) -> None:
            self._store.unpin(image)
            done(shared if result and result.ok else 0, image.stamp)

        op = Op("spill", offset=place.offset, size_bytes=size, tokens=shared, path=path)
        self._operations.plan(op, None, settle)
        return True

    def _spill(self, image: Image, extent: Extent, path: str) -> None:
        """A cached image goes to a file. Should another core write to its place before ours has
        read it, the file has not its stamp, which is found out when it is loaded."""

        def settle(result: OpResult | None) -> None:
            self._store.unpin(image)
            if not (result and result.ok):
                self._store.remove(image)

        self._store.pin(image)
        op = Op("spill", 0, extent.offset, image.size_bytes, image.length, path=path)
        self._operations.plan(op, None, settle)
