"""Web fetch through an allow list. Nothing can be fetched until the operator allows a host.

Every redirect is checked like the first address; proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urljoin, urlsplit

from msgspec import Meta

from aios.syscalls.errors import InvalidArgument, PermissionDenied, ToolFailed
from aios.tool import Tool, tool

MOST_BYTES = 512 << 10
_MOST_REDIRECTS = 5
_TIMEOUT_S = 20.0


def allowed(host: str, port: int | None, allow: Sequence[str]) -> bool:
    """Whether a host is on the list: ``host``, ``host:port`` or ``*.domain`` (not the domain)."""
    names = {host, f"{host}:{port}"} if port else {host}
    return any(
        entry in names or (entry.startswith("*.") and host.endswith(entry[1:])) for entry in allow
    )


def get(url: str, allow: Sequence[str]) -> tuple[str, http.client.HTTPResponse]:
    """The response at the end of all redirects, and its address. Raises AiosError."""
    for _ in range(_MOST_REDIRECTS):
        parts = _checked(url, allow)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else (
            http.client.HTTPConnection
        )  # fmt: skip
        connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("GET", target, headers={"User-Agent": "aios", "Accept": "*/*"})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise ToolFailed(f"{url} cannot be fetched: {reason}") from None
        place = response.getheader("Location")
        if response.status not in (301, 302, 303, 307, 308) or not place:
            return url, response
        connection.close()
        url = urljoin(url, place)
    raise ToolFailed(f"more than {_MOST_REDIRECTS} redirects; the last was to {url}")


def _checked(url: str, allow: Sequence[str]) -> Any:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidArgument(f"{url!r} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise InvalidArgument(f"{url!r} is no http or https address")
    if any(ord(c) <= 32 or ord(c) == 127 for c in url):
        raise InvalidArgument(f"{url!r} has characters that an address cannot have")
    if not allowed(host, port, allow):
        raise PermissionDenied(
            f"{host} may not be fetched: it is not on the allow list",
            "the operator allows hosts with the setting web_allow",
        )
    return parts


def tools(allow: Sequence[str]) -> list[Tool[..., Any]]:
    """The tools for hosts on the list."""

    @tool(effect="read", idempotent=True, timeout=60)
    def fetch(
        url: Annotated[str, Meta(min_length=1, max_length=4096)],
        limit: Annotated[int, Meta(ge=1, le=MOST_BYTES)] = 64 << 10,
    ) -> dict[str, Any]:
        """Fetch a text from the web.

        url: an http or https address
        limit: how many bytes at most
        """
        where, response = get(url, allow)
        try:
            data = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise ToolFailed(f"{where} broke off: {error}") from None
        finally:
            response.close()
        charset = response.headers.get_content_charset() or "utf-8"
        try:
            text = data[:limit].decode(charset, "replace")
        except LookupError:
            text = data[:limit].decode("utf-8", "replace")
        return {"url": where, "status": response.status, "more": len(data) > limit,
                "type": response.headers.get_content_type(), "text": text}  # fmt: skip

    return [fetch]
