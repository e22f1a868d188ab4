"""The environment of processes that run an engine: how the C library gives them memory.

Seats are large blocks that are read and written as a whole, when a context is parked and restored
and at each step: in huge pages both are faster (``aios bench swap``). Where the system has none
to give, it is as without.
"""

from __future__ import annotations

import os

_NAME, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def engine_environment() -> dict[str, str]:
    """Ours, and huge pages for large blocks unless the user has decided about them."""
    tunables = [each for each in os.environ.get(_NAME, "").split(":") if each]
    if not any(each.startswith(f"{_HUGE_PAGES}=") for each in tunables):
        tunables.append(f"{_HUGE_PAGES}=1")
    return {**os.environ, _NAME: ":".join(tunables)}
