"""The messages between the core and its template process; hw/machine/framing.py frames them."""

from __future__ import annotations

import msgspec

CPU_LIMIT_S = 1
"""Limit on the CPU time of one rendering, in whole seconds; the host enforces it."""


class Render(msgspec.Struct, frozen=True):
    """Render a template. ``variables``: a JSON object (text). ``day``: the date that the template's
    clock shows, YYYY-MM-DD."""

    template: str
    variables: str
    day: str


class Rendered(msgspec.Struct, frozen=True):
    """The text, or the reason why there is none. ``refused``: the template itself said so."""

    text: str = ""
    problem: str = ""
    refused: bool = False
