"""The states of a process and the legal transitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Life = Literal["starting", "alive", "paused", "ending", "dead"]

LIVES: Mapping[Life, frozenset[Life]] = {
    "starting": frozenset({"alive", "ending", "dead"}),
    "alive": frozenset({"paused", "ending", "dead"}),
    "paused": frozenset({"alive", "ending", "dead"}),
    "ending": frozenset({"dead"}),
    "dead": frozenset(),
}
"""In ``paused``, its host processes are stopped and its requests held."""
