"""Contexts of one model on their way to files and back.

Saving waits for the end of a slice, since nobody knows during one how much is in the seats.
A file that is restored is only made known; it is read when a request begins with its tokens.
"""

from __future__ import annotations

from array import array

from .imaging import Written
from .manager import ContextManager

_MOST_RESTORED = 256
"""Files that are remembered until there is a core; those that came first are forgotten."""


class Filing:
    """What is to be written, and what has been restored before there was a core."""

    def __init__(self) -> None:
        self._saves: list[tuple[array[int], str, Written]] = []
        self._restored: dict[str, tuple[array[int], int]] = {}
        """Tokens and stamp, by path."""

    def __bool__(self) -> bool:
        return bool(self._saves)

    def save(self, tokens: array[int], path: str, done: Written) -> None:
        """Write what KV there is of these tokens to a file, at the next ``write``."""
        self._saves.append((tokens, path, done))

    def write(self, context: ContextManager | None) -> None:
        """Plan what is to be written; without a context there is nothing to write."""
        saves, self._saves = self._saves, []
        for tokens, path, done in saves:
            if not (context and context.imaging.to_file(tokens, path, done)):
                done(0, 0)

    def restore(
        self, context: ContextManager | None, tokens: array[int], path: str, stamp: int
    ) -> None:
        """KV of these tokens is in a file."""
        if context:
            context.adopt(tokens, path, stamp)
        else:
            self._restored[path] = tokens, stamp
            if len(self._restored) > _MOST_RESTORED:
                del self._restored[next(iter(self._restored))]

    def attach(self, context: ContextManager) -> None:
        """A core is there: it can look at what was restored before."""
        for path, (tokens, stamp) in self._restored.items():
            context.adopt(tokens, path, stamp)
        self._restored.clear()
