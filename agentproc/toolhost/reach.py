"""Hosts that a tool may reach: the kernel decides, by the rights of the tool's caller.

Each host has one canonical name, so that a rule cannot be evaded by another spelling. Names are not
resolved here: the right to reach a name includes every address that it resolves to.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable

from aios.syscalls.errors import InvalidArgument

Reach = Callable[[str], None]
"""Ask to reach a host, by its canonical name. Raises PermissionDenied and other AiosErrors."""

_NAME = re.compile(r"[a-z0-9._:-]{1,253}")


def canonical_name(host: str) -> str:
    """Return a host's canonical name: lower-case ASCII, or the usual form of an address.

    Raises InvalidArgument.
    """
    try:
        name = host.encode("idna").decode("ascii").lower().rstrip(".") if ":" not in host else host
        name = str(_address(name) or name)
    except UnicodeError:
        name = ""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{host[:253]!r} is not a host", "give a name or an address")
    return name


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address in any form that resolvers accept, such as 127.1; None for a name."""
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(name))
        except OSError:
            return None
    return getattr(found, "ipv4_mapped", None) or found
