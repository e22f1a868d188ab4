"""The context manager: which sequence's KV is in which seat or image, and who shares what.

Promises that every request chosen to run has a seat, however many others there are; that a request
keeps its seat until another needs it; that nothing is parked while there is a free or less valuable
seat; and that KV that exists anywhere, in a seat or an image, is not computed again by another
request that begins with the same tokens.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection

from aios.hw.core.messages import Op, OpResult
from aios.hw.engine.engine import GRID_TOKENS, EngineInfo
from aios.hw.machine.arena import Extent
from aios.kernel.loop.task import detach
from aios.syscalls.types.trace import OpRecord

from .image_planning import ImageWriter
from .operations import Operations, Result
from .prefix import BLOCK, PrefixIndex, common
from .seats import Coldness, Seat, pick, problems
from .sequence import Image, Sequence
from .store import KvStore

_CACHE_TOKENS = 64
"""Cache a finished sequence as an image if it is at least this long."""


class ContextManager:
    """Seats and images of one model. Plans operations; the core carries them out."""

    def __init__(self, store: KvStore, info: EngineInfo) -> None:
        self._store, self._info = store, info
        self._seats = [Seat(number) for number in range(info.seats)]
        self._index: PrefixIndex[Seat | Image] = PrefixIndex()
        self._operations = Operations()
        self.writer = ImageWriter(store, info, self._index, self._operations, self)
        self._tick = 0

    @property
    def seats_used(self) -> int:
        """Seats that hold a living request's context."""
        return sum(seat.owner is not None for seat in self._seats)

    @property
    def images(self) -> int:
        """Images of this model, parked and cached."""
        return sum(image.home is self for image in self._store.images)

    @property
    def busy(self) -> bool:
        """Operations are planned or under way."""
        return bool(self._operations)

    @property
    def weights(self) -> str:
        """Name what the KV depends on: the weights, by format and hash, and the rung."""
        info = self._info
        form = info.tuned.weights if info.tuned else "original"
        return f"{form} ({info.model_hash[-8:]}), {info.rung.name}"

    @property
    def shares(self) -> bool:
        """Requests can share computed prefixes by copies."""
        return self._info.restorable

    # ------------------------------------------------------------------ planning

    def seat_all(self, chosen: Collection[Sequence], coldness: Coldness) -> list[Op]:
        """Give every chosen sequence a seat; return what the core must do first, in order, such as
        saving a context even if none is chosen."""
        self._tick += 1
        keep = set(chosen)
        for sequence in chosen:
            if sequence.seat is None:
                detach(self._place(sequence, keep, coldness))
        for sequence in chosen:
            if sequence.seat is not None:
                self._seats[sequence.seat].used = self._tick
        return self._operations.listed()

    def shared(self, sequence: Sequence) -> int:
        """Return the length of its longest prefix whose KV exists somewhere."""
        return self._source(sequence)[1]

    def adopt(self, tokens: array[int], path: str, stamp: int) -> None:
        """Make known the file of a saved context that holds the KV of these tokens."""
        image = Image(tokens, len(tokens), self, path=path, stamp=stamp)
        if self._store.adopt(image):
            self._index.update(image)

    # ------------------------------------------------------------------ results

    def settle(self, results: list[OpResult], now: float) -> list[OpRecord]:
        """Note the results of the slice's operations; return them for the trace."""
        return self._operations.settle(results, now)

    def failed(self, ok: list[bool]) -> set[int]:
        """Return the requests whose seats are empty because an operation failed."""
        return self._operations.failed(ok)

    def ran(self, sequence: Sequence, length: int) -> None:
        """Note that a slice is over and the seat that the sequence had in it holds ``length``
        tokens."""
        seat = self._seats[sequence.seat] if sequence.seat is not None else None
        if seat is None:
            seat = next((s for s in self._seats if s.tokens is sequence.tokens), None)
        if seat is None or seat.tokens is not sequence.tokens:
            return
        seat.length = min(length, len(sequence.tokens))
        if seat.owner is sequence:
            sequence.length = seat.length
        self._index.update(seat)

    def release(self, sequence: Sequence) -> None:
        """Free the seat of a request that has ended; the content becomes a cache."""
        if sequence.seat is not None:
            self._seats[sequence.seat].owner = None
            sequence.seat = None
        image, sequence.image = sequence.image, None
        if image:
            self._store.remove(image)

    def lost(self) -> None:
        """Note that the core has died: seats are empty, and images it had not finished are void."""
        self._operations.lost()
        for seat in self._seats:
            self._empty(seat)
            owner, seat.owner = seat.owner, None
            if owner:
                owner.seat, owner.length = None, 0
                owner.recomputes += 1
                if not owner.computed:
                    owner.cached_tokens = 0  # what it had found is gone before it was of use

    def close(self) -> None:
        """Forget the seats and images of a model that is unloaded."""
        self.lost()
        for image in [image for image in self._store.images if image.home is self]:
            self._store.remove(image)

    def forget(self, image: Image) -> None:
        """Note that the store has dropped an image. A request parked in it is computed again."""
        self._index.remove(image)
        if image.owner and image.owner.image is image:
            image.owner.image, image.owner.length = None, 0
            image.owner.recomputes += 1

    def check(self, requests: Collection[Sequence]) -> list[str]:
        """Return what is wrong with the accounts."""
        parked = {request.image for request in requests if request.image}
        return problems(self._seats, requests) + [
            f"an image of {image.length} tokens is parked for no request"
            for image in self._store.images
            if image.owner and image.home is self and not image.pins and image not in parked
        ]

    # ------------------------------------------------------------------ seats

    async def _place(
        self, sequence: Sequence, keep: Collection[Sequence], coldness: Coldness
    ) -> None:
        image, sequence.image = sequence.image, None
        if image:
            await self._load(sequence, image, image.length, keep, coldness)
            return
        source, shared = self._source(sequence)
        if not sequence.computed:  # what it has computed itself before is not a cache's merit
            found = min(shared, sequence.prompt_tokens)
            sequence.cached_tokens = max(sequence.cached_tokens, found)
        if isinstance(source, Image):
            self._store.used(source)
            await self._load(sequence, source, shared, keep, coldness)
        elif source is None:
            await self._trim(sequence, self._free_seat(keep, coldness), 0)
        elif source.owner is None and self._yields(source, shared, keep):
            await self._trim(sequence, source, shared)
        else:
            await self._copy(sequence, source, shared, self._free_seat(keep, coldness, source))

    async def _trim(self, sequence: Sequence, seat: Seat, length: int) -> None:
        await self._begin(sequence, seat, length, Op("trim", seat.number, tokens=length))

    async def _copy(self, sequence: Sequence, source: Seat, shared: int, seat: Seat) -> None:
        source.used = self._tick
        if min(seat.sharable, common(seat.tokens, sequence.tokens)) >= shared:
            await self._trim(sequence, seat, shared)  # it begins the same itself
        else:
            op = Op("copy", seat.number, tokens=shared, source=source.number)
            await self._begin(sequence, seat, shared, op)

    async def _load(
        self,
        sequence: Sequence,
        image: Image,
        length: int,
        keep: Collection[Sequence],
        coldness: Coldness,
    ) -> None:
        self._store.pin(image)  # the image of a victim parked for it must not push it out
        seat = self._free_seat(keep, coldness)
        place = image.extent or Extent(0, 0)
        size = image.size_bytes if image.extent else 0
        op = Op("load", seat.number, place.offset, size, length, path=image.path, stamp=image.stamp)
        result = await self._begin(sequence, seat, length, op)
        self._store.unpin(image)
        if result is None and image.owner is sequence and seat.owner is sequence:
            sequence.image, sequence.length = image, image.length  # it outlives the core
            sequence.seat = seat.owner = None
        elif image.owner is sequence or (result and not result.ok):
            self._store.remove(image)

    async def _begin(self, sequence: Sequence, seat: Seat, length: int, op: Op) -> Result:
        """Give the seat to the sequence; after ``op`` it holds ``length`` of its tokens."""
        self._index.remove(seat)
        seat.tokens, seat.length, seat.owner = sequence.tokens, length, sequence
        seat.share_limit = sequence.prompt_tokens if self._info.rung.replay else sys.maxsize
        sequence.seat, sequence.length = seat.number, length
        self._index.update(seat)
        result = await self._operations.plan(op, sequence)
        if result and not result.ok:
            sequence.recomputes += length > 0
            sequence.cached_tokens = 0
            if seat.tokens is sequence.tokens:
                self._empty(seat)
        return result

    def _source(self, sequence: Sequence) -> tuple[Seat | Image | None, int]:
        """Return the holder of its longest prefix, and the length of that; the last token must be
        run for its logits."""
        most = len(sequence.tokens) - 1
        if self._info.rung.replay:
            most = min(most, sequence.prompt_tokens)
        source: Seat | Image | None
        if not self._info.restorable:  # nothing can be copied, but a seat can be taken over
            source, shared = self._free_source(sequence.tokens, most)
        else:
            source, shared = self._index.find(sequence.tokens, most, _tier)
        if self._info.rung.replay or not self._info.rung.mixed:  # chunks lie on a fixed grid
            shared -= shared % GRID_TOKENS
        if not source or not shared or not self._can_take(source, shared):
            return None, 0
        return source, shared

    def _can_take(self, holder: Seat | Image, length: int) -> bool:
        """Return True if the first tokens of a holder can be had, by a copy or in place."""
        in_place = isinstance(holder, Seat) and holder.owner is None and self._info.image_window
        return bool(in_place) or self._can_copy(holder, length)

    def _can_copy(self, holder: Seat | Image, length: int) -> bool:
        """Return True if an image of the holder can be cut to its first tokens."""
        window = self._info.image_window
        return window is None or holder.length <= window or length == holder.length

    def _free_source(self, tokens: array[int], most: int) -> tuple[Seat | None, int]:
        """Return the free seat with the longest common prefix, and the length of that."""

        def shared(seat: Seat) -> int:
            return min(most, seat.sharable, common(seat.tokens, tokens))

        best = max((s for s in self._seats if s.owner is None), key=shared, default=None)
        return (best, shared(best)) if best and shared(best) >= BLOCK else (None, 0)

    def _yields(self, seat: Seat, shared: int, keep: Collection[Sequence]) -> bool:
        """Return True if a free seat's content may be cut to the prefix; False if it is worth a
        copy."""
        if not self._info.restorable or 2 * shared > seat.length:
            return True
        if not self._can_copy(seat, shared):
            return True
        return not any(
            other is not seat and (other.owner is None or other.owner not in keep)
            for other in self._seats
        )

    def _free_seat(
        self, keep: Collection[Sequence], coldness: Coldness, source: Seat | None = None
    ) -> Seat:
        seat = pick(self._seats, keep, coldness, source)
        if seat.owner:
            self._park(seat)
        elif seat is not source:
            self._keep_content(seat)
        return seat

    def _empty(self, seat: Seat) -> None:
        seat.length = 0
        self._index.remove(seat)

    # ------------------------------------------------------------------ images

    def _park(self, seat: Seat) -> None:
        victim = seat.owner
        assert victim
        victim.seat, seat.owner = None, None
        victim.parks += 1
        if self.writer.worth_saving(seat.length):
            victim.image = self.writer.save(seat, victim)
        if not victim.image:
            victim.recomputes += victim.length > 0
            victim.length = 0

    def _keep_content(self, seat: Seat) -> None:
        """Cache what a free seat holds before it is used again."""
        if seat.sharable >= _CACHE_TOKENS and self.writer.worth_saving(seat.length):
            self._index.remove(seat)
            _, known = self._index.find(seat.tokens, seat.sharable, _tier)
            if known < seat.sharable:
                self.writer.save(seat, None)


def _tier(holder: Seat | Image) -> float:
    """Prefer seats to memory and memory to files; among seats, those without an owner."""
    if isinstance(holder, Seat):
        return 0.0 if holder.owner is None else 0.5
    return 2.0 if holder.path else 1.0
