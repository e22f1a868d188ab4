"""KV of saved contexts on its way to and from files, for one model.

Saving waits for the end of a slice: only then is it known how many tokens the seats hold. A file
that is restored is only made known; it is read when a request begins with its tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from aios.kernel.loop.task import Promise, start

from .image_planning import Written
from .manager import ContextManager

_MAX_RESTORED = 256
"""Limit on files remembered until there is a core; the oldest are forgotten."""


class SavedKv:
    """Contexts to write, and contexts that were restored before there was a core."""

    def __init__(self, wanted: Callable[[], None]) -> None:
        """``wanted`` has ``write`` called, now or after the slice under way."""
        self._wanted = wanted
        self.context: ContextManager | None = None
        """Set while the model is loaded."""
        self._saves: list[tuple[array[int], str, Promise[Written]]] = []
        self._restored: dict[str, tuple[array[int], int]] = {}
        """Tokens and stamp, by path."""

    def __bool__(self) -> bool:
        """Return True if there is something to write."""
        return bool(self._saves)

    @property
    def weights(self) -> str:
        """Name the weights that KV is saved of now; '' without a core."""
        return self.context.weights if self.context else ""

    def save(self, tokens: array[int], path: str) -> Promise[Written]:
        """Write the KV that exists of these tokens to a file."""
        promise: Promise[Written] = Promise()
        self._saves.append((tokens, path, promise))
        self._wanted()
        return promise

    def write(self, ready: bool) -> None:
        """Plan the writing of all that is to be saved; without a core there is no KV."""
        saves, self._saves = self._saves, []
        for tokens, path, promise in saves:
            if self.context and ready:
                start(self.context.writer.to_file(tokens, path)).then(promise.settle)
            else:
                promise.resolve((0, 0))

    def restore(self, tokens: array[int], path: str, stamp: int) -> None:
        """Note that a file holds the KV of these tokens."""
        if self.context:
            self.context.adopt(tokens, path, stamp)
        else:
            self._restored[path] = tokens, stamp
            if len(self._restored) > _MAX_RESTORED:
                del self._restored[next(iter(self._restored))]

    def attach(self, context: ContextManager) -> None:
        """Use a new core's context manager; tell it what was restored before."""
        self.context = context
        for path, (tokens, stamp) in self._restored.items():
            context.adopt(tokens, path, stamp)
        self._restored.clear()
