"""Thread counts worth trying for an engine on this machine's processors."""

from __future__ import annotations

import psutil


def usable_cpus() -> int:
    """Return the number of logical processors that this process may run on."""
    return len(psutil.Process().cpu_affinity() or [0])


def default_threads() -> int:
    """Return the thread count of an engine for which none is given: one per physical core."""
    return psutil.cpu_count(logical=False) or 1


def thread_counts(asked: int | None, tuned: int | None = None) -> list[int]:
    """Return the counts to try, in descending order.

    ``asked``, the user's own count, is the only one if given. Otherwise one thread for each
    physical core, half of that, one, and ``tuned``, the count that tuning found fastest.
    """
    if asked is not None:
        return [asked]
    physical, usable = default_threads(), usable_cpus()
    most = max(1, min(physical, usable))
    return sorted({most, -(-most // 2), 1, min(tuned or 1, usable)}, reverse=True)
