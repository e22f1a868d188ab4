"""The prompt queue: prompts that wait for the core, which turns them into tokens between two steps.

The core is sent a few at a time, the urgent first, and more when it has answered those: however
many prompts arrive, no next token waits for longer than a few of them take.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from aios.kernel.scheduler.request import Request

MAX_BYTES = 16 << 10
"""Limit on the size of prompts and grammars sent at once; a single one may be larger."""
OVERHEAD_BYTES = 512
"""Cost of a prompt besides its text."""


class PromptQueue:
    """``send`` gives a request to the core. ``last_slice``: number of the slice sent last."""

    def __init__(self, send: Callable[[Request], None]) -> None:
        self._send = send
        self.last_slice = 0
        self._waiting: list[tuple[int, int, Request]] = []
        self._arrivals = itertools.count()
        self._room = MAX_BYTES
        self._sent: dict[int, int] = {}
        """Requests that the core has yet to answer, in order; and ``last_slice`` before each."""

    def __bool__(self) -> bool:
        """Return True if the core has something to answer."""
        return bool(self._sent)

    def add(self, request: Request) -> None:
        """Have a prompt prepared: now if there is room, else after those that wait."""
        heapq.heappush(self._waiting, (request.rank, next(self._arrivals), request))
        if len(self._waiting) == 1:
            self._fill()

    def answered(self, request_id: int) -> None:
        """Note that the core has prepared or refused a prompt."""
        self._sent.pop(request_id, None)

    def refill(self) -> None:
        """Send more prompts, unless the core still has some to answer."""
        if not self._sent:
            self._room = MAX_BYTES
            self._fill()

    def reorder(self) -> None:
        """Sort again: ranks have changed."""
        self._waiting = [(request.rank, n, request) for _, n, request in self._waiting]
        heapq.heapify(self._waiting)

    def clear(self) -> tuple[int, bool]:
        """Forget all: the core is gone. Return the id of the request it may have been preparing
        (0: none), and True if that was sent after the last slice, which it may have been running
        as well."""
        first, before = next(iter(self._sent.items()), (0, 0))
        self._sent.clear()
        self._waiting.clear()
        self._room = MAX_BYTES
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
                self._send(request)


def _size_bytes(request: Request) -> int:
    params = request.params
    texts = [request.prompt, params.constraint.text if params.constraint else None]
    texts += [message.content for message in request.messages]
    return OVERHEAD_BYTES + sum(len(text.encode()) for text in texts if text)
