"""Transports between an MCP worker and its server: stdio or streamable HTTP, with a memory limit.

A server that sends an endless line ends its own worker and affects no other.
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

MAX_MEMORY_BYTES = 1 << 30
"""Limit on the address space of a worker, not of the server that it starts."""


@contextlib.asynccontextmanager
async def stdio(parameters: StdioServerParameters, errors: TextIO) -> AsyncIterator[Any]:
    """Start a server and yield its streams. Its standard error goes to ``errors``."""
    with errors:
        async with stdio_client(parameters, errlog=errors) as streams:
            # the server runs by now, so it does not inherit the limit
            limit(resource.RLIMIT_AS, MAX_MEMORY_BYTES)
            yield streams


@contextlib.asynccontextmanager
async def http(url: str, headers: dict[str, str], timeout: Any) -> AsyncIterator[Any]:
    """Connect to the server at a URL and yield its streams."""
    limit(resource.RLIMIT_AS, MAX_MEMORY_BYTES)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, trust_env=False) as client,
        streamable_http_client(url, http_client=client) as streams,
    ):
        yield streams
