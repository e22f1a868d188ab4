"""The phases of a request, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Phase = Literal["preparing", "ready", "running", "held", "done"]

PHASES: Mapping[Phase, frozenset[Phase]] = {
    "preparing": frozenset({"ready", "held", "done"}),
    "ready": frozenset({"running", "held", "preparing", "done"}),
    "running": frozenset({"ready", "held", "done"}),
    "held": frozenset({"ready", "preparing", "done"}),
    "done": frozenset(),
}
"""``preparing``: it has no tokens yet; ``ready``: it could run; ``running``: it is in the current
slice; ``held``: its agent is paused."""
