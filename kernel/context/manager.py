"""The context manager: which request's KV is in which seat, where the others' is, who shares what.

Promises that a request chosen to run has a seat, whatever number of others there are; that a
request keeps its seat until someone else needs it; that nothing is parked while a free or less
valuable seat is left; and that tokens whose KV exists anywhere, in a seat or an image, are not
computed again by another request that begins with them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection

from aios.hw.core.messages import Op, OpResult
from aios.hw.engine.engine import GRID_TOKENS, EngineInfo
from aios.hw.machine.arena import Extent
from aios.syscalls.types.trace import OpRecord

from .imaging import Imaging
from .operations import Operations, Settle
from .prefix import BLOCK, PrefixIndex, common
from .sequence import Image, Seat, Sequence
from .store import KvStore

_CACHE_TOKENS = 64
"""What a seat holds after its request has ended is kept as an image from so many tokens on."""

Coldness = Callable[[Sequence], tuple[float, ...]]


class ContextManager:
    """Seats and images of one model. Plans operations; the core carries them out."""

    def __init__(self, store: KvStore, info: EngineInfo) -> None:
        self._store, self._info = store, info
        self._seats = [Seat(number) for number in range(info.seats)]
        self._index: PrefixIndex[Seat | Image] = PrefixIndex()
        self._operations = Operations()
        self.imaging = Imaging(store, info, self._index, self._operations, self)
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
    def shares(self) -> bool:
        """What one request computes can be copied for another."""
        return self._info.restorable

    # ------------------------------------------------------------------ planning

    def seat_all(self, chosen: Collection[Sequence], coldest_first: Coldness) -> list[Op]:
        """Give every chosen request a seat; returns what the core must do first, in order.

        ``coldest_first`` orders those that may lose their seat: the greatest key goes first.
        """
        self._tick += 1
        keep = set(chosen)
        for request in chosen:
            if request.seat is None:
                self._place(request, keep, coldest_first)
        for request in chosen:
            if request.seat is not None:
                self._seats[request.seat].used = self._tick
        return self._operations.listed()

    def shared(self, request: Sequence) -> int:
        """Tokens of its beginning whose KV exists somewhere."""
        return self._source(request)[1]

    def errands(self) -> list[Op]:
        """Operations to do although no request can run, such as writing a context to a file."""
        return self._operations.listed()

    def adopt(self, tokens: array[int], path: str, stamp: int) -> None:
        """An image in a file of somebody else's holds the KV of these tokens."""
        image = Image(tokens, len(tokens), self, path=path, stamp=stamp)
        if self._store.adopt(image):
            self._index.update(image)

    # ------------------------------------------------------------------ what came of it

    def settle(self, results: list[OpResult]) -> list[OpRecord]:
        """Take in how the operations of the slice went; returns them for the trace."""
        return self._operations.settle(results)

    def failed(self, ok: list[bool]) -> set[int]:
        """Sequences whose seats are empty because an operation failed."""
        return self._operations.failed(ok)

    def ran(self, request: Sequence, length: int) -> None:
        """A slice is over and the seat that the request had in it holds so many tokens."""
        seat = self._seats[request.seat] if request.seat is not None else None
        if seat is None:
            seat = next((s for s in self._seats if s.tokens is request.tokens), None)
        if seat is None or seat.tokens is not request.tokens:
            return
        seat.length = min(length, len(request.tokens))
        if seat.owner is request:
            request.length = seat.length
        self._index.update(seat)

    def release(self, request: Sequence) -> None:
        """The request has ended: its seat is anyone's, and what is in it a cache."""
        if request.seat is not None:
            self._seats[request.seat].owner = None
            request.seat = None
        image, request.image = request.image, None
        if image:
            self._store.remove(image)

    def lost(self) -> None:
        """The core has died: seats are empty, and images that it had not finished are void."""
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
        """The model is unloaded: forget its seats and images."""
        self.lost()
        for image in [image for image in self._store.images if image.home is self]:
            self._store.remove(image)

    def forget(self, image: Image) -> None:
        """The store has given it up. A request that was parked in it is computed again."""
        self._index.remove(image)
        if image.owner and image.owner.image is image:
            image.owner.image, image.owner.length = None, 0
            image.owner.recomputes += 1

    def check(self, requests: Collection[Sequence]) -> list[str]:
        """What is wrong with the accounts; empty when all is well."""
        problems = []
        for seat in self._seats:
            owner = seat.owner
            if owner is not None and owner.seat != seat.number:
                problems.append(f"seat {seat.number}: its request {owner.id} says {owner.seat}")
            if owner is not None and owner not in requests:
                problems.append(f"seat {seat.number}: held by request {owner.id}, which has ended")
            if seat.length > len(seat.tokens):
                problems.append(f"seat {seat.number}: {seat.length} of {len(seat.tokens)} tokens")
        for request in requests:
            if request.seat is not None and self._seats[request.seat].owner is not request:
                problems.append(f"request {request.id}: not in its seat {request.seat}")
            if request.seat is not None and request.image is not None:
                problems.append(f"request {request.id}: seated and parked at once")
        parked = {request.image for request in requests if request.image}
        for image in self._store.images:
            if image.owner and image.home is self and not image.pins and image not in parked:
                problems.append(f"an image of {image.length} tokens is parked for nobody")
        return problems

    # ------------------------------------------------------------------ seats

    def _place(self, request: Sequence, keep: Collection[Sequence], coldest: Coldness) -> None:
        image, request.image = request.image, None
        if image:
            self._load(request, image, image.length, keep, coldest)
            return
        source, shared = self._source(request)
        # what it has computed itself before is not a cache's merit
        shared_prompt = 0 if request.computed else min(shared, request.prompt_tokens)
        if isinstance(source, Seat) and source.owner is None and self._yields(source, shared, keep):
            self._trim(request, source, shared)
        elif isinstance(source, Seat):
            seat = self._free_seat(keep, coldest, source)
            source.used = self._tick
            if min(seat.length, common(seat.tokens, request.tokens)) >= shared:
                self._trim(request, seat, shared)  # it begins the same itself
            else:
                op = Op("copy", seat.number, tokens=shared, source=source.number)
                self._begin(request, seat, shared, op)
        elif source:
            self._store.used(source)
            self._load(request, source, shared, keep, coldest)
        else:
            self._trim(request, self._free_seat(keep, coldest, None), 0)
        request.cached_tokens = max(request.cached_tokens, shared_prompt)

    def _source(self, request: Sequence) -> tuple[Seat | Image | None, int]:
        """Where the most tokens of its beginning are; the last one must be run for its logits."""
        most = len(request.tokens) - 1
        if not self._info.restorable:  # nothing can be copied, but a seat can be taken over
            free = [s for s in self._seats if s.owner is None and s.length]
            best = max(free, key=lambda s: common(s.tokens, request.tokens), default=None)
            shared = min(most, best.length, common(best.tokens, request.tokens)) if best else 0
            return (best, shared) if shared >= BLOCK else (None, 0)
        source, shared = self._index.find(request.tokens, most, _tier)
        if not self._info.rung.mixed:  # chunks lie on a fixed grid
            shared -= shared % GRID_TOKENS
        return (source, shared) if shared else (None, 0)

    def _yields(self, seat: Seat, shared: int, keep: Collection[Sequence]) -> bool:
        """Whether a free seat's content may be cut to its beginning, or is worth a copy."""
        if not self._info.restorable or 2 * shared > seat.length:
            return True
        return not any(
            other is not seat and (other.owner is None or other.owner not in keep)
            for other in self._seats
        )

    def _free_seat(
        self, keep: Collection[Sequence], coldest: Coldness, source: Seat | None
    ) -> Seat:
        free = [seat for seat in self._seats if seat.owner is None and seat is not source]
        if free:
            seat = min(free, key=lambda s: (s.length > 0, s.used if s.length else 0, s.number))
            self._keep_content(seat)
            return seat
        others = [s for s in self._seats if s.owner and s.owner not in keep and s is not source]
        if not others:  # only the source itself is left: its content moves along with the copy
            assert source
            if source.owner:
                self._park(source)
            return source
        seat = max(others, key=lambda s: coldest(s.owner) if s.owner else ())
        self._park(seat)
        return seat

    def _empty(self, seat: Seat) -> None:
        seat.length = 0
        self._index.remove(seat)

    def _begin(
        self, request: Sequence, seat: Seat, length: int, op: Op, then: Settle | None = None
    ) -> None:
        """The seat is the request's from now on, and holds ``length`` of its tokens after ``op``.
        ``then`` gets its result, too."""
        self._index.remove(seat)
        seat.tokens, seat.length, seat.owner = request.tokens, length, request
        request.seat, request.length = seat.number, length
        self._index.update(seat)

        def settle(result: OpResult | None) -> None:
            if result and not result.ok:
                request.recomputes += length > 0
                request.cached_tokens = 0
                if seat.tokens is request.tokens:
                    self._empty(seat)
            if then:
                then(result)

        self._operations.plan(op, request, settle)

    def _trim(self, request: Sequence, seat: Seat, length: int) -> None:
        self._begin(request, seat, length, Op("trim", seat.number, tokens=length))

    def _load(
        self,
        request: Sequence,
        image: Image,
        length: int,
        keep: Collection[Sequence],
        coldest: Coldness,
    ) -> None:
        self._store.pin(image)  # whoever leaves the seat for it must not push it out
        seat = self._free_seat(keep, coldest, None)
        place = image.extent or Extent(0, 0)
        size = image.size_bytes if image.extent else 0
        op = Op("load", seat.number, place.offset, size, length, path=image.path, stamp=image.stamp)

        def loaded(result: OpResult | None) -> None:
            self._store.unpin(image)
            if result is None and image.owner is request and seat.owner is request:
                request.image, request.length = image, image.length  # it outlives the core
                request.seat = seat.owner = None
            elif image.owner is request or (result and not result.ok):
                self._store.remove(image)

        self._begin(request, seat, length, op, loaded)

    # ------------------------------------------------------------------ images

    def _park(self, seat: Seat) -> None:
        victim = seat.owner
        assert victim
        victim.seat, seat.owner = None, None
        victim.parks += 1
        image = None
        if self.imaging.worth_saving(seat.length):
            image = self.imaging.save(seat, victim)
        if image:
            victim.image = image
        else:
            victim.recomputes += victim.length > 0
            victim.length = 0

    def _keep_content(self, seat: Seat) -> None:
        """Before a free seat is used again: what it holds may be of use to somebody."""
        if seat.length >= _CACHE_TOKENS and self.imaging.worth_saving(seat.length):
            tokens = seat.tokens
            self._index.remove(seat)
            _, known = self._index.find(tokens, seat.length, _tier)
            if known < seat.length:
                self.imaging.save(seat, None)


def _tier(holder: Seat | Image) -> float:
    """Seats before memory before files; among seats those that nobody owns."""
    if isinstance(holder, Seat):
        return 0.0 if holder.owner is None else 0.5
    return 2.0 if holder.path else 1.0
