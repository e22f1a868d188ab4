"""An MCP server for tests: ``mcp_server.py stdio|http FOLDER``.

It has one more tool if FOLDER has a file ``extra``. With HTTP it writes its port to FOLDER/port.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

from mcp.server import MCPServer

FOLDER = Path(sys.argv[2])
server = MCPServer("test")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def die() -> int:
    """Exit during the call."""
    os._exit(3)


@server.tool()
def slow(seconds: float) -> int:
    """Take long."""
    time.sleep(seconds)
    return 1


@server.tool()
def fail() -> int:
    """Fail with the key in the message."""
    raise ValueError(os.environ.get("KEY", ""))


@server.tool()
def leak() -> str:
    """Return the key."""
    return f"it is {os.environ.get('KEY', '')}"


@server.tool()
def flood() -> str:
    """Return a result that is too long."""
    return "x" * 3_000_000


@server.tool()
def os_pid() -> int:
    """Return the pid."""
    return os.getpid()


if (FOLDER / "extra").exists():

    @server.tool()
    def extra() -> int:
        """Appear after the approval."""
        return 1


if sys.argv[1] == "stdio":
    server.run("stdio")
else:
    import uvicorn

    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    app = server.streamable_http_app()
    http = uvicorn.Server(uvicorn.Config(app, log_level="error"))

    def tell() -> None:
        part = FOLDER / "port.part"
        part.write_text(str(sock.getsockname()[1]))
        part.rename(FOLDER / "port")

    sock.listen()
    threading.Thread(target=tell).start()
    http.run(sockets=[sock])
