"""Huge pages for processes that run an engine, asked of the C library in their environment.

Seats are large blocks that are read and written whole, when a context is parked or restored and at
each step; huge pages speed up both (``aios bench swap``). A system without them ignores the wish.
"""

from __future__ import annotations

import os

_NAME, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def engine_environment() -> dict[str, str]:
    """Return our environment with huge pages switched on, unless the user has set them."""
    tunables = [each for each in os.environ.get(_NAME, "").split(":") if each]
    if not any(each.startswith(f"{_HUGE_PAGES}=") for each in tunables):
        tunables.append(f"{_HUGE_PAGES}=1")
    return {**os.environ, _NAME: ":".join(tunables)}
