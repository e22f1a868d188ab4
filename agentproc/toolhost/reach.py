"""Which hosts a tool may reach: asked of the kernel, for whoever called the tool.

A host has one name here, so that a rule about it cannot be walked around by writing it otherwise.
Where a name leads is the resolver's business: who may reach a name reaches what it stands for.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable

from aios.syscalls.errors import InvalidArgument

Reach = Callable[[str], None]
"""Asks for a host by its one name. Raises PermissionDenied and other AiosErrors."""

_NAME = re.compile(r"[a-z0-9._:-]{1,253}")


def one_name(host: str) -> str:
    """A host in lower-case ASCII, an address as it is usually written. Raises InvalidArgument."""
    try:
        name = host.encode("idna").decode("ascii").lower().rstrip(".") if ":" not in host else host
        name = str(_address(name) or name)
    except UnicodeError:
        name = ""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{host[:253]!r} is no host", "give a name or an address")
    return name


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text stands for, in any of the forms that resolvers take (127.1)."""
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(name))
        except OSError:
            return None
    return getattr(found, "ipv4_mapped", None) or found
