"""The clock: the one place where the kernel reads the time. Tests put another in its place."""

from __future__ import annotations

import time


class Clock:
    """The host's clocks. ``now`` never goes back; ``unix`` follows the host's date."""

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        return time.monotonic()

    def unix(self) -> float:
        """Seconds since 1970."""
        return time.time()
