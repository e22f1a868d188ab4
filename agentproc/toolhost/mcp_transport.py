"""How an MCP worker reaches its server: by stdio or streamable HTTP, within a limit of memory.

A server may send as much as it likes without an end of line; that ends its worker, nobody else.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import AsyncIterator
from typing import Any, TextIO

import httpx2
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from .worker_process import limit

MEMORY_BYTES = 1 << 30
"""Address space of a worker, not of the server that it starts."""


@contextlib.asynccontextmanager
async def stdio(parameters: StdioServerParameters, errors: TextIO) -> AsyncIterator[Any]:
    """Start a server; the streams to it. ``errors`` gets its standard error."""
    with errors:
        async with stdio_client(parameters, errlog=errors) as streams:
            # the server is started by now, and has no such limit
            limit(resource.RLIMIT_AS, MEMORY_BYTES)
            yield streams


@contextlib.asynccontextmanager
async def http(url: str, headers: dict[str, str], timeout: Any) -> AsyncIterator[Any]:
    """The streams to a server at an address."""
    limit(resource.RLIMIT_AS, MEMORY_BYTES)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, trust_env=False) as client,
        streamable_http_client(url, http_client=client) as streams,
    ):
        yield streams
