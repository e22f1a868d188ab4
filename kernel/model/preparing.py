"""Prompts on their way to a model's core, which makes their tokens between two steps of a slice.

The core is sent a few at a time, and more, the urgent first, when it has done with those: a flood
of prompts delays nobody's next token for longer than a few take.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from aios.kernel.scheduler.request import Request

MOST_BYTES = 16 << 10
"""Of prompts and grammars that the core is sent at once; one alone may be longer."""
EACH_BYTES = 512
"""What a prompt takes, beside its text, counts as so many."""


class Preparing:
    """``send`` gives a request to the core. ``last_slice``: the number of the slice it was sent
    last."""

    def __init__(self, send: Callable[[Request], None]) -> None:
        self._send = send
        self.last_slice = 0
        self._waiting: list[tuple[int, int, Request]] = []
        self._arrivals = itertools.count()
        self._room = MOST_BYTES
        self._sent: dict[int, int] = {}
        """What the core has yet to answer, in its order, and ``last_slice`` before each."""

    def __bool__(self) -> bool:
        """Whether the core has something to answer."""
        return bool(self._sent)

    def add(self, request: Request) -> None:
        """Have it prepared: now, if there is room, or after those that wait."""
        heapq.heappush(self._waiting, (request.rank, next(self._arrivals), request))
        if len(self._waiting) == 1:
            self._fill()

    def answered(self, request_id: int) -> None:
        """The core has done with it, well or not."""
        self._sent.pop(request_id, None)

    def refill(self) -> None:
        """Send more of those that wait; nothing, while the core has something to answer."""
        if not self._sent:
            self._room = MOST_BYTES
            self._fill()

    def reorder(self) -> None:
        """Ranks of those that wait have changed."""
        self._waiting = [(request.rank, n, request) for _, n, request in self._waiting]
        heapq.heapify(self._waiting)

    def clear(self) -> tuple[int, bool]:
        """The core is gone: what it may have been preparing (0: nothing), and whether that was sent
        after its last slice, which it may have been running as well."""
        first, before = next(iter(self._sent.items()), (0, 0))
        self._sent.clear()
        self._waiting.clear()
        self._room = MOST_BYTES
        return first, before == self.last_slice

    def _fill(self) -> None:
        while self._waiting:
            request = self._waiting[0][2]
            size = _size_bytes(request)
            if self._sent and size > self._room:
                return
            heapq.heappop(self._waiting)
            if request.phase != "done":
                self._room -= size
                self._sent[request.id] = self.last_slice
                self._send(request)  # in which the core may be found dead, and all this cleared


def _size_bytes(request: Request) -> int:
    params = request.params
    texts = [request.prompt, params.grammar, params.json_schema]
    texts += [message.content for message in request.messages or ()]
    return EACH_BYTES + sum(len(text.encode()) for text in texts if text)
