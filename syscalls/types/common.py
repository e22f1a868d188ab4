"""Common parts of the request and reply types: names, texts, paths, limits.

All types are frozen. Limits are part of a type, so the boundary checks them before a handler runs.
Times are seconds on the kernel's monotonic clock unless the name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_TEXT_BYTES = 4 << 20
"""Limit on one text field, in characters. Longer prompts fit no context window served."""
MAX_ARGS = 1024
"""Limit on a program's arguments."""
MAX_TIMEOUT_S = 7 * 24 * 3600.0
"""Longest timeout of a call."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z"
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=NAME_PATTERN)]
Ref = Annotated[str, Meta(min_length=1, max_length=128)]
"""A pid, a name, or a unique prefix of a name."""
Text = Annotated[str, Meta(max_length=MAX_TEXT_BYTES)]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Rules = Annotated[list[Annotated[str, Meta(min_length=1, max_length=512)]], Meta(max_length=64)]
"""Rights as text: ``[VERB] KIND[.ACTION]:NAME``."""
Effect = Literal["read", "reversible", "irreversible"]
"""``read`` changes nothing, ``reversible`` can be undone, ``irreversible`` cannot."""


class Empty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request or reply without content."""
