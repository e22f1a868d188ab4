"""The states of processes and of requests, as tables. Imports nothing.

An illegal transition raises and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Life = Literal["starting", "alive", "paused", "ending", "dead"]
Phase = Literal["preparing", "ready", "running", "held", "done"]

LIVES: Mapping[Life, frozenset[Life]] = {
    "starting": frozenset({"alive", "ending", "dead"}),
    "alive": frozenset({"paused", "ending", "dead"}),
    "paused": frozenset({"alive", "ending", "dead"}),
    "ending": frozenset({"dead"}),
    "dead": frozenset(),
}
"""An agent's process. ``paused``: its host processes are stopped and its requests held."""

PHASES: Mapping[Phase, frozenset[Phase]] = {
    "preparing": frozenset({"ready", "held", "done"}),
    "ready": frozenset({"running", "held", "preparing", "done"}),
    "running": frozenset({"ready", "held", "done"}),
    "held": frozenset({"ready", "preparing", "done"}),
    "done": frozenset(),
}
"""A generation. ``ready``: could run; ``running``: in the slice under way; ``held``: paused."""


class IllegalTransition(Exception):
    """A bug of the kernel's: the table has no such arrow."""


def next_life(now: Life, to: Life) -> Life:
    """``to``, if a process may go there."""
    if to not in LIVES[now]:
        raise IllegalTransition(f"process: {now} → {to}")
    return to


def next_phase(now: Phase, to: Phase) -> Phase:
    """``to``, if a request may go there."""
    if to not in PHASES[now]:
        raise IllegalTransition(f"request: {now} → {to}")
    return to
