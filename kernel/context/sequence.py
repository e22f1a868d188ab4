"""A sequence of tokens and the image that it is parked in.

Its tokens and the number of them whose KV exists, in a seat or an image, are its whole state.
"""

from __future__ import annotations

import secrets
import sys
from array import array
from dataclasses import dataclass, field
from typing import Protocol

from aios.hw.machine.arena import Extent

_ATTENTION_TOKENS = 4096.0
"""Context length, in tokens, at which attention costs as much as the rest of a prompt token."""


@dataclass(eq=False, kw_only=True)
class Sequence:
    """A request as the context manager knows it."""

    id: int
    """Never used twice: a slice under way may still have a row of a request that has ended."""
    pid: int
    tokens: array[int] = field(default_factory=lambda: array("i"))
    prompt_tokens: int = 0
    seat: int | None = None
    image: Image | None = None
    length: int = 0
    """Tokens whose KV is in the seat or, if it is parked, in the image."""
    computed: int = 0
    """Most tokens whose KV it ever had; those beyond are new work."""
    cached_tokens: int = 0
    """Prompt tokens whose KV it found computed."""
    parks: int = 0
    recomputes: int = 0


class Home(Protocol):
    """The context manager of the model that an image belongs to."""

    def forget(self, image: Image) -> None:
        """Note that the store has dropped the image."""


def new_stamp() -> int:
    """Return a number that tells an image from any other ever written, by any kernel."""
    return secrets.randbits(63)


@dataclass(eq=False)
class Image:
    """KV of the first ``length`` of ``tokens``, in the arena or in a file.

    ``owner``: the sequence parked in it; None: it is a cache. ``pins``: planned operations that
    read or write it.
    """

    tokens: array[int]
    length: int
    home: Home
    owner: Sequence | None = None
    extent: Extent | None = None
    path: str = ""
    size_bytes: int = 0
    """Size of the image once it is written; until then, of the room reserved for it."""
    pins: int = 0
    kept: bool = False
    """The file belongs to a saved context: it is never deleted and not in the store's budget."""
    keys: list[int] = field(default_factory=list)
    """Keys of its blocks in the prefix index."""
    use: int = 0
    """Number of its last use among all uses; 0: it cannot be evicted."""
    share_limit: int = sys.maxsize
    """As that of the seat it was saved from."""
    stamp: int = field(default_factory=new_stamp)

    @property
    def sharable(self) -> int:
        """Number of tokens whose KV others may take."""
        return min(self.length, self.share_limit)

    @property
    def worth(self) -> float:
        """Cost of computing it again, over its size."""
        return 1.0 + self.length / _ATTENTION_TOKENS
