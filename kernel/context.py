"""The context manager: which request's KV is in which seat, and where the others' is.

Promises that a request chosen to run has a seat, whatever number of others there are; that a
request keeps its seat until someone else needs it; and that nothing is parked while a free or
worthless seat is left. What loses its seat goes to an image in the arena; when the arena is full,
or the model cannot be saved, its tokens are enough and it is recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from aios.hw.arena import Arena, Extent
from aios.hw.engine import EngineInfo
from aios.hw.image import image_bytes
from aios.hw.messages import Op, OpResult

from .request import Image, Request


@dataclass(eq=False)
class _Planned:
    """An operation under way, and what its result means."""

    op: Op
    request: Request
    image: Image | None


class ContextManager:
    """Seats and images of one model. Plans operations; the core carries them out."""

    def __init__(self, arena: Arena, info: EngineInfo) -> None:
        self._arena, self._info = arena, info
        self._seats: list[Request | None] = [None] * info.seats
        self._planned: list[_Planned] = []
        self._leaving: list[Extent] = []

    @property
    def seats_used(self) -> int:
        """Seats that hold a living request's context."""
        return sum(owner is not None for owner in self._seats)

    def seat_all(
        self, chosen: Sequence[Request], coldest_first: Callable[[Request], tuple[int, ...]]
    ) -> list[Op]:
        """Give every chosen request a seat; returns what the core must do first, in order.

        ``coldest_first`` orders those that may lose their seat: the greatest key goes first.
        """
        assert not self._planned and not self._leaving, "a slice is still under way"
        keep = set(chosen)
        for request in chosen:
            if request.seat is None:
                self._put(request, self._free_seat(keep, coldest_first))
        return [planned.op for planned in self._planned]

    def settle(self, results: Sequence[OpResult]) -> None:
        """Take in how the operations of the last ``seat_all`` went."""
        planned, self._planned = self._planned, []
        leaving, self._leaving = self._leaving, []
        for extent in leaving:
            self._arena.free(extent)
        for plan, result in zip(planned, results, strict=True):
            image = plan.image
            if plan.op.kind == "save" and image:
                if plan.request.image is not image:
                    self._arena.free(image.extent)  # its request has ended meanwhile
                elif result.ok:
                    image.size_bytes = result.size_bytes
                else:
                    self._forget_image(plan.request)
            elif plan.op.kind == "load" and not result.ok:
                plan.request.recomputes += 1

    def release(self, request: Request) -> None:
        """The request has ended: its seat is free and its image void."""
        if request.seat is not None:
            self._seats[request.seat] = None
            request.seat = None
        image, request.image = request.image, None
        if image and not any(plan.image is image for plan in self._planned):
            self._arena.free(image.extent)

    def lost(self, requests: Collection[Request]) -> None:
        """The core has died: seats are empty, and images that it had not finished are void."""
        unfinished = {plan.image for plan in self._planned if plan.op.kind == "save"}
        saved = [plan.image for plan in self._planned if plan.op.kind == "save" and plan.image]
        self._planned = []
        leaving, self._leaving = self._leaving, []
        for extent in leaving:
            self._arena.free(extent)
        for request in requests:
            if request.seat is not None:
                self._seats[request.seat] = None
                request.seat, request.length = None, 0
                request.recomputes += 1
            elif request.image in unfinished and request.image:
                saved.remove(request.image)
                self._forget_image(request)
        for image in saved:
            self._arena.free(image.extent)  # their requests ended while they were written

    def check(self, requests: Collection[Request]) -> list[str]:
        """What is wrong with the accounts; empty when all is well."""
        problems = []
        for seat, owner in enumerate(self._seats):
            if owner is not None and owner.seat != seat:
                problems.append(f"seat {seat}: its request {owner.id} says {owner.seat}")
            if owner is not None and owner not in requests:
                problems.append(f"seat {seat}: held by request {owner.id}, which has ended")
        for request in requests:
            if request.seat is not None and self._seats[request.seat] is not request:
                problems.append(f"request {request.id}: not in its seat {request.seat}")
            if request.seat is not None and request.image is not None:
                problems.append(f"request {request.id}: seated and parked at once")
        return problems

    def _free_seat(
        self, keep: Collection[Request], coldest_first: Callable[[Request], tuple[int, ...]]
    ) -> int:
        for free, owner in enumerate(self._seats):
            if owner is None:
                return free
        others = [owner for owner in self._seats if owner is not None and owner not in keep]
        victim = max(others, key=coldest_first)
        seat = victim.seat
        assert seat is not None
        self._park(victim, seat)
        return seat

    def _park(self, victim: Request, seat: int) -> None:
        victim.seat = None
        self._seats[seat] = None
        victim.parks += 1
        extent = None
        if victim.length and self._info.restorable:
            extent = self._arena.allocate(image_bytes(self._info, victim.length))
        if extent is None:
            if victim.length:
                victim.recomputes += 1
            victim.length = 0
            return
        victim.image = Image(extent, victim.length)
        op = Op("save", seat, extent.offset, extent.size_bytes, victim.length)
        self._planned.append(_Planned(op, victim, victim.image))

    def _put(self, request: Request, seat: int) -> None:
        self._seats[seat] = request
        request.seat = seat
        image, request.image = request.image, None
        if image is None:
            request.length = 0
            self._planned.append(_Planned(Op("trim", seat), request, None))
            return
        op = Op("load", seat, image.extent.offset, image.size_bytes, image.tokens)
        self._planned.append(_Planned(op, request, None))
        self._leaving.append(image.extent)

    def _forget_image(self, request: Request) -> None:
        if request.image:
            self._arena.free(request.image.extent)
            request.image = None
            request.length = 0
            request.recomputes += 1
