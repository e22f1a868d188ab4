"""Keys for API tools and MCP servers: each worker reads those it needs from their file.

A key goes into requests and server environments, and is removed from everything that comes back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from aios.syscalls import paths
from aios.syscalls.errors import ToolUnavailable

HIDDEN = "[secret]"
_REFERENCE = re.compile(r"\$\{secret:([A-Za-z0-9_-]{1,64})\}")


class Secrets:
    """The keys that one source has used; only these are removed from its results."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def get(self, name: str) -> str:
        """Return a key. Raises ToolUnavailable, with the key's name but never its value."""
        try:
            found: Any = json.loads(paths.secrets_file().read_text(encoding="utf-8")).get(name)
        except (OSError, ValueError, AttributeError):
            found = None
        if not isinstance(found, str):
            raise ToolUnavailable(
                f"the key {name!r} is not stored", f"store it with: aios tool secret {name}"
            )
        self._used.add(found)
        return found

    def fill(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return the values with each ``${secret:NAME}`` replaced. Raises ToolUnavailable."""
        return {k: _REFERENCE.sub(lambda m: self.get(m[1]), v) for k, v in values.items()}

    def hide(self, text: str) -> str:
        """Return the text with this source's keys hidden, also in their JSON and URL encodings."""
        for value in self._used:
            for form in (value, json.dumps(value)[1:-1], quote(value, safe=""), quote_plus(value)):
                text = text.replace(form, HIDDEN)
        return text
