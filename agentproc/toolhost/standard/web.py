"""Fetch from the web. The caller needs the right ``network.connect`` for the host of the URL and of
each redirect. Proxies in the environment are not used.
"""

from __future__ import annotations

import http.client
from typing import Annotated, Any
from urllib.parse import SplitResult, urljoin, urlsplit

from msgspec import Meta

from aios.syscalls.errors import InvalidArgument, ToolFailed
from aios.tool import Tool, tool
from aios.toolhost.reach import Reach, canonical_name

MAX_BYTES = 512 << 10
"""Limit on the returned bytes of a response."""
_MAX_REDIRECTS = 5
_TIMEOUT_S = 20.0


def get(url: str, reach: Reach) -> tuple[str, http.client.HTTPResponse]:
    """Follow redirects. Return the final URL and its response. Raises AiosError."""
    for _ in range(_MAX_REDIRECTS):
        parts = _checked(url)
        host = canonical_name(parts.hostname or "")
        reach(host)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else (
            http.client.HTTPConnection
        )  # fmt: skip
        connection = kind(host, parts.port or kind.default_port, timeout=_TIMEOUT_S)
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
    raise ToolFailed(f"more than {_MAX_REDIRECTS} redirects; the last was to {url}")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidArgument(f"{url!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise InvalidArgument(f"{url!r} is not an http or https URL")
    if any(ord(c) <= 32 or ord(c) == 127 for c in url):
        raise InvalidArgument(f"{url!r} has characters that are not allowed in a URL")
    return parts


def tools(reach: Reach) -> list[Tool[..., Any]]:
    """Return the tools. They ask for each host."""

    @tool(effect="read", idempotent=True, timeout=60)
    def fetch(
        url: Annotated[str, Meta(min_length=1, max_length=4096)],
        limit: Annotated[int, Meta(ge=1, le=MAX_BYTES)] = 64 << 10,
    ) -> dict[str, Any]:
        """Fetch a text from the web.

        url: an http or https URL
        limit: maximum number of bytes
        """
        where, response = get(url, reach)
        try:
            data = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise ToolFailed(f"the response of {where} ended early: {error}") from None
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
