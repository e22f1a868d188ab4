"""Approval of MCP servers: the operator approves the tools that a server has and its configuration.

A server whose configuration differs from the approved one has no tools; a server whose tools differ
is revoked until the operator approves it again. The toolhost reports servers whose tools differ.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from aios.syscalls.types.tool import McpServer, ToolSpec

State = Literal["unapproved", "revoked", "ready"]


class Pin(msgspec.Struct):
    """The approved tools of a server, and the digest of its configuration at that time.

    ``changes``: how its tools differ now, empty if they do not. ``skipped``: tools that cannot be
    used, and why.
    """

    digest: str
    config_digest: str
    tools: list[ToolSpec]
    changes: list[str] = []
    skipped: list[str] = []


def state_of(pin: Pin | None, server: McpServer) -> State:
    """Return the state of a server's approval."""
    if pin is None or pin.config_digest != config_digest(server):
        return "unapproved"
    return "revoked" if pin.changes else "ready"


def config_digest(server: McpServer) -> str:
    """Hash a server's configuration."""
    return hashlib.sha256(msgspec.json.encode(server, order="sorted")).hexdigest()


def differences(before: list[ToolSpec], now: list[ToolSpec]) -> list[str]:
    """Return how tools differ, one line each; never empty."""
    old, new = {spec.name: spec for spec in before}, {spec.name: spec for spec in now}
    lines = [f"+ {name}" for name in sorted(new.keys() - old.keys())]
    lines += [f"- {name}" for name in sorted(old.keys() - new.keys())]
    for name in sorted(old.keys() & new.keys()):
        fields = [f for f in ToolSpec.__struct_fields__
                  if getattr(old[name], f) != getattr(new[name], f)]  # fmt: skip
        if fields:
            lines.append(f"~ {name}: {', '.join(fields)}")
    return lines or ["its tools differ"]
