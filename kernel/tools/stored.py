"""Stored state of the tools: sources, MCP servers, approvals, and keys, each in a JSON file.

``mcp.json`` has the common ``mcpServers`` format and may be edited by hand; unknown entries and
fields are kept. Each file is private to the user and replaced as a whole. The functions block: the
kernel calls them at boot or in its worker thread. Keys are only written here; the toolhost's
workers read them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from aios.hw.machine.durable import replace_file
from aios.syscalls import codec, paths
from aios.syscalls.errors import AiosError, InvalidArgument, ResourceExhausted
from aios.syscalls.types.tool import McpServer, SourceRequest

from .approval import Pin


class ToolFiles:
    """The files in the tools folder, ``secrets.json`` and ``mcp.json``."""

    def __init__(self) -> None:
        folder = paths.tools_dir()
        self._sources, self._pins = folder / "sources.json", folder / "pins.json"
        self._secrets, self._mcp = paths.secrets_file(), paths.mcp_file()

    def sources(self) -> dict[str, SourceRequest]:
        """Read the added files and APIs. Raises InvalidArgument if the file is damaged."""
        found: dict[str, SourceRequest] = _convert(self._sources, dict[str, SourceRequest])
        return found

    def save_sources(self, sources: dict[str, SourceRequest]) -> None:
        """Replace the file."""
        _write(self._sources, msgspec.to_builtins(sources))

    def pins(self) -> dict[str, Pin]:
        """Read the approvals. Raises InvalidArgument if the file is damaged."""
        found: dict[str, Pin] = _convert(self._pins, dict[str, Pin])
        return found

    def save_pins(self, pins: dict[str, Pin]) -> None:
        """Replace the file."""
        _write(self._pins, msgspec.to_builtins(pins))

    def servers(self) -> dict[str, McpServer]:
        """Read the servers of mcp.json. Raises InvalidArgument, which names the wrong entry."""
        return {name: _server(name, entry) for name, entry in self._entries().items()}

    def save_server(self, name: str, server: McpServer | None) -> None:
        """Set the entry of a server; None removes it."""
        document = _read(self._mcp)
        entries = document.setdefault("mcpServers", {})
        if server is None:
            entries.pop(name, None)
        else:
            entries[name] = msgspec.to_builtins(server)
        _write(self._mcp, document)

    def save_secret(self, name: str, value: str | None) -> None:
        """Set a key; None removes it."""
        secrets = _read(self._secrets)
        if value is None:
            secrets.pop(name, None)
        else:
            secrets[name] = value
        _write(self._secrets, secrets)

    def _entries(self) -> dict[str, Any]:
        entries = _read(self._mcp).get("mcpServers", {})
        if not isinstance(entries, dict):
            raise InvalidArgument(f"{self._mcp}: mcpServers is not an object", "correct it by hand")
        return entries


def checked(name: str, server: McpServer) -> McpServer:
    """Return the entry if it is valid. Raises InvalidArgument."""
    if (server.command is None) == (server.url is None):
        raise InvalidArgument(
            f"MCP server {name}: give exactly one of command and url",
            "aios mcp add NAME -- COMMAND … or: aios mcp add NAME --url URL",
        )
    if server.url is not None and not server.url.startswith(("http://", "https://")):
        raise InvalidArgument(f"MCP server {name}: {server.url!r} is not an http or https URL")
    texts = [server.command or "", *server.args, *server.env, *server.env.values()]
    if any("\0" in text for text in [*texts, *server.headers, *server.headers.values()]):
        raise InvalidArgument(f"MCP server {name}: a value contains a NUL character")
    return server


def _server(name: str, entry: Any) -> McpServer:
    known = set(McpServer.__struct_fields__)
    if not isinstance(entry, dict):
        raise InvalidArgument(f"mcp.json: {name} is not an object", "correct it by hand")
    ours = {key: value for key, value in entry.items() if key in known}
    return checked(name, codec.convert(ours, McpServer))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"{path} cannot be read: {error}", "repair it or move it away"
        ) from None
    if not isinstance(found, dict):
        raise InvalidArgument(f"{path} is not a JSON object", "repair it or move it away")
    return found


def _convert(path: Path, kind: Any) -> Any:
    try:
        return msgspec.convert(_read(path), kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{path}: {error}", "repair it or move it away") from None


def _write(path: Path, document: Any) -> None:
    """Replace a file, readable by this user only. Raises ResourceExhausted."""
    data = json.dumps(document, indent=2).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, data)
    except OSError as error:
        raise ResourceExhausted(
            f"{path} cannot be written: {error.strerror}", "nothing was changed; free some space"
        ) from None


def one_line(error: AiosError) -> str:
    """Return an error as one line."""
    return f"{error.message} ({error.hint})" if error.hint else error.message
