"""Prompts on their way to a model's core, which makes their tokens between two steps of a slice.

The core is sent a few at a time, the urgent first, and more when it has done with those: a flood of
prompts delays nobody's next token for longer than a few take.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from .request import Request

MOST_BYTES = 16 << 10
"""Of prompts and grammars that the core is sent at once; one alone may be longer."""


class Preparing:
    """``send`` gives a request to the core. ``last_slice``: the number of the slice it was sent
    last."""

    def __init__(self, send: Callable[[Request], None]) -> None:
        self._send = send
        self.last_slice = 0
        self._waiting: list[tuple[int, int, Request]] = []
        self._arrivals = itertools.count()
        self._sent: dict[int, int] = {}
        """What the core has yet to answer, in its order, and ``last_slice`` before each."""

    def __bool__(self) -> bool:
        """Whether the core has something to answer."""
        return bool(self._sent)

    def add(self, request: Request) -> None:
        """Have it prepared."""
        heapq.heappush(self._waiting, (request.rank, next(self._arrivals), request))
        self._refill()

    def answered(self, request_id: int) -> None:
        """The core has done with it, well or not."""
        if self._sent.pop(request_id, None) is not None:
            self._refill()

    def clear(self) -> tuple[int, bool]:
        """The core is gone: what it may have been preparing (0: nothing), and whether that was sent
        after its last slice, which it may have been running as well."""
        first, before = next(iter(self._sent.items()), (0, 0))
        self._sent.clear()
        self._waiting.clear()
        return first, before == self.last_slice

    def _refill(self) -> None:
        if self._sent:
            return
        room = MOST_BYTES
        while self._waiting:
            request = self._waiting[0][2]
            room -= _size_bytes(request)
            if room < 0 and self._sent:
                return
            heapq.heappop(self._waiting)
            if request.phase != "done":
                self._sent[request.id] = self.last_slice
                self._send(request)  # in which the core may be found dead, and all this cleared


def _size_bytes(request: Request) -> int:
    params = request.params
    texts = [request.prompt, params.grammar, params.json_schema]
    texts += [message.content for message in request.messages or ()]
    return sum(len(text) for text in texts if text)
